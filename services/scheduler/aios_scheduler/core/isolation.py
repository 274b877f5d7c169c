"""How much a tenant that floods may have running: no more than its share of what the others have.

Serving tenants in turn bounds what each of them *gets*. It does not keep a large tenant from filling the batch while
nobody else waits, and every step of a full batch takes longer, for everybody in it. Where that matters more than
throughput, a tenant that asks for much more than the others do is held to `share` times what each of them has running,
by weight, or a small part of the memory; the rest of the machine stays empty. So this is off unless somebody asks.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aios_scheduler.core.call import ModelCall

FLOOD = 4.0
"""Times what the others ask for on average, by weight, from which on a tenant counts as flooding."""

FLOOR = 0.02
"""Share of the workers' memory that even a flooding tenant may use: it is hardly noticed by others."""

WINDOW_S = 30.0
"""Older requests count for less: by a factor e after this time. A tenant that was idle for so long does not count."""


@dataclass(slots=True)
class _Use:
    """One tenant: weighted tokens it asked for, and when last; tokens its running calls reserve."""

    weight: float
    asked: float = 0.0
    at: float = 0.0
    running: int = 0


class Isolation:
    """What each tenant asks for and has.

    What was asked for is counted in a unit that grows as old requests fade, so that sums need not be made anew.

    Args:
        weight: of a tenant.
        share: times what each other tenant has running that a flooding one may have; None sets no bound.
    """

    def __init__(self, weight: Callable[[str], float], share: float | None) -> None:
        self.share = share
        self._weight = weight
        self._uses: dict[str, _Use] = {}
        self._all = _Use(0.0)
        self._base = 0.0

    def use(self, share: float | None, calls: Iterable[ModelCall]) -> None:
        """Sets another bound; `calls` are all open ones, because without a bound nothing was counted."""
        self.share = share
        self._uses.clear()
        self._all = _Use(0.0)
        for call in sorted(calls, key=lambda call: call.arrived):
            self.asked(call.tenant, call.work, call.arrived)
            self.started(call.tenant, call.reserved)

    def asked(self, tenant: str, work: float, now: float) -> None:
        """A call of so much work arrived."""
        if self.share is None:
            return
        if now - self._base > WINDOW_S:
            self._fade(now)
        use = self._uses.get(tenant)
        if use is None:
            use = self._uses[tenant] = _Use(self._weight(tenant))
            self._all.weight += use.weight
        work *= math.exp((now - self._base) / WINDOW_S)
        use.asked += work
        use.at = now
        self._all.asked += work

    def started(self, tenant: str, tokens: int) -> None:
        """A call that reserves so many tokens runs; negative ones are given back."""
        use = self._uses.get(tenant)
        if use is not None:
            use.running += tokens
            self._all.running += tokens

    def allows(self, tenant: str, tokens: int, now: float, capacity: Callable[[], int]) -> bool:
        """Whether a call of this tenant may start now.

        Args:
            tenant: whose.
            tokens: what it reserves.
            now: Unix time in seconds.
            capacity: asked for the tokens that all workers hold.
        """
        if self.share is None:
            return True
        if now - self._base > WINDOW_S:
            self._fade(now)
        own = self._uses.get(tenant)
        if own is None or not own.running or len(self._uses) == 1:
            return True
        others = self._all.weight - own.weight
        if own.asked / own.weight <= FLOOD * (self._all.asked - own.asked) / others:
            return True
        after = own.running + tokens
        if after <= FLOOR * capacity():
            return True
        return after <= self.share * own.weight * (self._all.running - own.running) / others

    def _fade(self, now: float) -> None:
        """Counts in today's unit again, without the tenants that went away."""
        factor = math.exp(min(0.0, (self._base - now) / WINDOW_S))
        self._base = now
        kept: dict[str, _Use] = {}
        self._all = _Use(0.0)
        for name, use in self._uses.items():
            if use.running or use.at > now - WINDOW_S:
                use.asked *= factor
                kept[name] = use
                self._all.weight += use.weight
                self._all.asked += use.asked
                self._all.running += use.running
        self._uses = kept
