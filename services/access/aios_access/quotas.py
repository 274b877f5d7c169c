"""Which limits hold for a call: those of its tenant, its agent (its own, else its group's) and its program."""

from dataclasses import dataclass
from typing import Final

from aios_access.directory import Identity
from aios_access.quota_meter import SlotMeter, WindowMeter, base_share
from aios_proto.messages.access import QuotaLimits, QuotaScope

MICRO: Final = 1_000_000
"""Budgets are counted in millionths of the price table's unit."""

_REMEMBERED = 65_536

QuotaKey = tuple[str, QuotaScope, str]
"""Tenant, scope and name; the name is empty for the tenant itself and for every program."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in any unit of money."""

    prompt: float
    completion: float

    def micro(self, prompt_tokens: int, completion_tokens: int) -> int:
        """The cost of some tokens, in millionths of the unit, rounded up."""
        return -int(-(prompt_tokens * self.prompt + completion_tokens * self.completion) // 1)

    def tokens(self, micro: int) -> int | None:
        """How many tokens of the dearer kind can be paid with so much; None where they cost nothing."""
        dearest = max(self.prompt, self.completion)
        return int(micro / dearest) if dearest > 0 else None


@dataclass(slots=True)
class Meters:
    """The meters of one limited thing; None where it has no such limit.

    Attributes:
        key: names its records in KV: `<tenant>.<scope>.<name>`.
        says: names it for a human.
        wait_s: how long a call may wait for its turn.
    """

    key: str
    says: str
    limits: QuotaLimits | None = None
    wait_s: float = 0.0
    calls: WindowMeter | None = None
    tokens: WindowMeter | None = None
    budget: WindowMeter | None = None
    slots: SlotMeter | None = None


class Quotas:
    """All quotas, and this replica's meters for those in use.

    Args:
        replicas: how many replicas of access there may be at most; see `quota_meter`.
    """

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas
        self._limits: dict[QuotaKey, QuotaLimits] = {}
        self._tenants: dict[str, int] = {}
        self._meters: dict[str, Meters] = {}
        self._for_call: dict[tuple[str, str, str, str], tuple[Meters, ...]] = {}

    def put(self, key: QuotaKey, limits: QuotaLimits) -> None:
        """A quota was set."""
        if key not in self._limits:
            self._tenants[key[0]] = self._tenants.get(key[0], 0) + 1
        self._limits[key] = limits
        self._for_call.clear()

    def remove(self, key: QuotaKey) -> None:
        """A quota was removed."""
        if self._limits.pop(key, None) is not None:
            self._tenants[key[0]] -= 1
            if not self._tenants[key[0]]:
                del self._tenants[key[0]]
        self._for_call.clear()

    def of_tenant(self, tenant: str) -> list[tuple[QuotaKey, QuotaLimits]]:
        """A tenant's quotas."""
        return sorted((key, limits) for key, limits in self._limits.items() if key[0] == tenant)

    def meters(self, identity: Identity, program: str) -> tuple[Meters, ...]:
        """What limits a call of this agent in this program; nothing for most."""
        if identity.tenant not in self._tenants:
            return ()
        call = (identity.tenant, identity.agent, identity.group, program)
        found = self._for_call.get(call)
        if found is None:
            if len(self._for_call) >= _REMEMBERED:
                self._for_call.clear()
            found = self._for_call[call] = tuple(self._find(identity, program))
        return found

    def named(self, key: QuotaKey) -> Meters | None:
        """The meters of a quota that is about one thing: a tenant or an agent."""
        limits = self._limits.get(key)
        tenant, scope, name = key
        if limits is None or scope not in ("tenant", "agent"):
            return None
        if scope == "tenant":
            return self._made(f"{tenant}.tenant", f"the tenant {tenant}", limits)
        return self._made(f"{tenant}.agent.{name}", f"the agent {name}", limits)

    def all_meters(self) -> list[Meters]:
        """Every meter in use."""
        return list(self._meters.values())

    def _find(self, identity: Identity, program: str) -> list[Meters]:
        tenant, agent = identity.tenant, identity.agent
        found: list[Meters] = []
        if (whole := self._limits.get((tenant, "tenant", ""))) is not None:
            found.append(self._made(f"{tenant}.tenant", f"the tenant {tenant}", whole))
        own = self._limits.get((tenant, "agent", agent)) or self._limits.get((tenant, "group", identity.group))
        if own is not None:
            found.append(self._made(f"{tenant}.agent.{agent}", f"the agent {agent}", own))
        run = self._limits.get((tenant, "program", program)) or self._limits.get((tenant, "program", ""))
        if run is not None:
            # Programs are named by their agents: two agents' programs of one name are two.
            found.append(self._made(f"{tenant}.program.{agent}.{program}", f"the program {program}", run))
        return found

    def _made(self, key: str, says: str, limits: QuotaLimits) -> Meters:
        known = self._meters.get(key)
        if known is None:
            known = self._meters[key] = Meters(key, says)
        if known.limits != limits:
            known.limits, known.wait_s = limits, limits.wait_s
            budget = None if limits.budget is None else round(limits.budget * MICRO)
            # A second's share may be used unasked. Longer windows outlive a replica, so all of them is leased.
            known.calls = self._window(known.calls, limits.calls_per_s, 1.0, unasked=True)
            known.tokens = self._window(known.tokens, limits.tokens, limits.tokens_window_s)
            known.budget = self._window(known.budget, budget, limits.budget_window_s)
            known.slots = self._slots(known.slots, limits.concurrent_calls)
        return known

    def _window(
        self, before: WindowMeter | None, limit: int | None, window_s: float, *, unasked: bool = False
    ) -> WindowMeter | None:
        if limit is None:
            return None
        base = base_share(limit, self._replicas) if unasked else 0
        if before is None:
            return WindowMeter(limit, window_s, base, self._replicas)
        before.limit_to(limit, window_s, base, self._replicas)
        return before

    def _slots(self, before: SlotMeter | None, limit: int | None) -> SlotMeter | None:
        if limit is None:
            return None
        base = base_share(limit, self._replicas)
        if before is None:
            return SlotMeter(limit, base, self._replicas)
        before.limit_to(limit, base, self._replicas)
        return before
