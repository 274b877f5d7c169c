"""Who has had how much: tokens charged to the program and to the tenant, with the tenants' weights.

A call is charged its expected length when it starts, what goes beyond that as it streams, and the truth at its end:
with only what has streamed, a tenant with many calls just begun would look as if it had had little.

The tenant's counter is the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI
2024): a tenant that has nothing waiting and then has again is lifted to the lowest counter of those that have, so that
it cannot save up what it did not want.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aios_scheduler.core.call import ModelCall, ProgramId

MAX_IDLE_PROGRAMS = 20_000
"""Programs remembered after their last call, the most recent ones."""


@dataclass(slots=True, eq=False)
class Program:
    """One agent run.

    Attributes:
        attained: weighted tokens it has had.
        calls: its calls so far.
        open: its calls that wait or run.
        ended_at: when its last call ended (Unix seconds).
        tool: the tool its last answer asked for.
        marks: weighted tokens it had had at the end of each call.
    """

    id: ProgramId
    attained: float = 0.0
    calls: int = 0
    open: int = 0
    ended_at: float = 0.0
    tool: str = ""
    marks: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Tenant:
    """One tenant.

    Attributes:
        weight: its share among tenants that want more than they get.
        counter: weighted tokens it has had, divided by its weight; the virtual token counter.
    """

    name: str
    weight: float = 1.0
    counter: float = 0.0


class Accounts:
    """All programs and tenants.

    Args:
        weights: of tenants; 1 where none is given.

    Attributes:
        last_served: the counter of the tenant that was served last.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self.tenants: dict[str, Tenant] = {}
        self.last_served = 0.0
        self.programs: dict[ProgramId, Program] = {}
        self._idle: OrderedDict[ProgramId, None] = OrderedDict()

    def program(self, call: ModelCall) -> Program:
        """The program of a call."""
        if call.account is not None:
            return call.account
        key = call.program_id
        found = self.programs.get(key)
        if found is None:
            found = self.programs[key] = Program(key)
        return found

    def tenant(self, name: str) -> Tenant:
        """A tenant."""
        found = self.tenants.get(name)
        if found is None:
            found = self.tenants[name] = Tenant(name, max(1e-6, self.weights.get(name, 1.0)))
        return found

    def use_weights(self, weights: Mapping[str, float]) -> None:
        """Counts by other weights from now on. Counters stay, so nobody is ahead or behind for what was before."""
        self.weights = dict(weights)
        for tenant in self.tenants.values():
            tenant.weight = max(1e-6, self.weights.get(tenant.name, 1.0))

    def opened(self, call: ModelCall) -> None:
        """A call of this program and tenant wants to run."""
        program = self.program(call)
        if not program.open:
            self._idle.pop(program.id, None)
        call.account = program
        call.step = program.calls
        program.calls += 1
        program.open += 1

    def refused(self, call: ModelCall) -> None:
        """A call was refused before it was opened: a program that has no other is not remembered for it."""
        known = self.programs.get(call.program_id)
        if known is not None and not known.calls:
            del self.programs[call.program_id]

    def comes_to_wait(self, tenant: str, waiting: Iterable[str]) -> None:
        """A tenant that had nothing to wait for has now: what it did not want before, it cannot claim."""
        lowest = min((self.tenant(other).counter for other in waiting), default=self.last_served)
        known = self.tenant(tenant)
        known.counter = max(known.counter, lowest)

    def closed(self, call: ModelCall, now: float) -> None:
        """It has ended."""
        program = self.program(call)
        call.account = None
        program.open -= 1
        if not program.open:
            program.ended_at = now
            self._idle[program.id] = None

    def ended_before(self, time: float) -> list[Program]:
        """Programs that have had no call since `time`, and those beyond the bound; they are forgotten."""
        ended = []
        while self._idle:
            key = next(iter(self._idle))
            program = self.programs[key]
            if program.ended_at > time and len(self._idle) <= MAX_IDLE_PROGRAMS:
                break
            del self._idle[key]
            ended.append(self.programs.pop(key))
        return ended

    def charge(self, call: ModelCall, weighted_tokens: float) -> None:
        """Counts weighted tokens; negative ones are given back."""
        (call.account or self.program(call)).attained += weighted_tokens
        tenant = self.tenant(call.tenant)
        tenant.counter += weighted_tokens / tenant.weight
