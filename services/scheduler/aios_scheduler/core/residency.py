"""Which programs live on which worker: as many as their contexts fit its KV cache, and no more.

A program that is away for a tool call keeps its place for as long as that is worth more than what others would do with
the memory (`learnt.Gaps.keep_s`); after that its place may be taken, but it keeps it while nobody wants it. Without
this bound a worker takes in more contexts than it can hold, each call finds its prefix gone, and the engine spends its
time computing prompts again: thrashing, as with pages in the 1960s (Denning's working sets are the same answer).
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from aios_scheduler.core.call import ProgramId, WorkerId

KV_SHARE = 0.95
"""Share of a worker's KV cache that is given out."""


@dataclass(slots=True, eq=False)
class Resident:
    """A program on a worker.

    Attributes:
        context_tokens: what it leaves in the cache between calls.
        running_tokens: what its running calls reserve.
        typical_tokens: what programs of its kind occupy on average: the young ones will grow.
        running: number of its running calls there.
        since: a counter; the last to come has the highest.
        expires: its place may be taken from then on (Unix seconds).
        by_age: it stands in its house's list of idle ones by age.
    """

    program: ProgramId
    since: int
    context_tokens: int = 0
    running_tokens: int = 0
    typical_tokens: int = 0
    running: int = 0
    expires: float = 0.0
    by_age: bool = False

    @property
    def tokens(self) -> int:
        """KV it occupies."""
        tokens = self.context_tokens
        if self.running_tokens > tokens:
            tokens = self.running_tokens
        return tokens if tokens > self.typical_tokens else self.typical_tokens


@dataclass(slots=True, eq=False)
class House:
    """One worker's residents.

    Attributes:
        capacity: tokens that may be given out; None where the engine does not tell.
        used: tokens of all residents.
        reserved: tokens of running calls alone.
        idle_tokens: tokens of the residents without a running call.
        by_age: the idle ones, the youngest first; also some that run again or have left.
    """

    capacity: int | None = None
    used: int = 0
    reserved: int = 0
    residents: dict[ProgramId, Resident] = field(default_factory=dict)
    idle: list[tuple[float, int, ProgramId]] = field(default_factory=list)
    idle_tokens: int = 0
    by_age: list[tuple[int, Resident]] = field(default_factory=list)

    def next_idle(self) -> Resident | None:
        """The idle resident whose time ends first."""
        while self.idle:
            expires, since, program = self.idle[0]
            resident = self.residents.get(program)
            if resident is not None and not resident.running and (resident.expires, resident.since) == (expires, since):
                return resident
            heapq.heappop(self.idle)
        return None

    def youngest_idle(self, but: ProgramId) -> Resident | None:
        """The idle resident that came last, of all but one program: it has had the least, so the least is lost."""
        for resident in self._youngest_first():
            if resident.program != but:
                return resident
        return None

    def idle_since(self, since: int, but: ProgramId, enough: int) -> int:
        """Tokens of the idle residents that came after `since`, of all but one program; stops counting at `enough`."""
        tokens = 0
        for resident in self._youngest_first():
            if resident.since < since or tokens >= enough:
                break
            if resident.program != but:
                tokens += resident.tokens
        return tokens

    def rest(self, resident: Resident) -> None:
        """A resident has no running call any more."""
        self.idle_tokens += resident.tokens
        heapq.heappush(self.idle, (resident.expires, resident.since, resident.program))
        if not resident.by_age:
            resident.by_age = True
            heapq.heappush(self.by_age, (-resident.since, resident))

    def _youngest_first(self) -> Iterator[Resident]:
        """Idle residents by age. Takes entries out as far as somebody looks, and puts back the idle ones."""
        heap = self.by_age
        seen = []
        try:
            while heap:
                entry = heapq.heappop(heap)
                resident = entry[1]
                if resident.running or self.residents.get(resident.program) is not resident:
                    resident.by_age = False
                    continue
                seen.append(entry)
                yield resident
        finally:
            for entry in seen:
                heapq.heappush(heap, entry)


class Residency:
    """All workers' residents.

    Attributes:
        changed: workers on which a place was taken or left since somebody last looked; whoever looks clears it.
    """

    def __init__(self) -> None:
        self.houses: dict[WorkerId, House] = {}
        self.changed: set[WorkerId] = set()
        self._expiries: list[tuple[float, WorkerId]] = []
        self._homes: dict[ProgramId, dict[WorkerId, Resident]] = {}
        self._counter = 0

    def resize(self, worker: WorkerId, kv_tokens: int | None) -> None:
        """A worker said how much its cache holds."""
        house = self.houses.get(worker)
        if house is None:
            house = self.houses[worker] = House()
        house.capacity = None if kv_tokens is None else int(kv_tokens * KV_SHARE)

    def drop_worker(self, worker: WorkerId) -> None:
        """A worker is gone, with its cache."""
        house = self.houses.pop(worker, None)
        if house is not None:
            for program in list(house.residents):
                self._forget_home(program, worker)

    def homes(self, program: ProgramId) -> dict[WorkerId, Resident]:
        """Where a program lives."""
        return self._homes.get(program, {})

    def fits(
        self,
        worker: WorkerId,
        program: ProgramId,
        reserve_tokens: int,
        now: float,
        *,
        typical_tokens: int = 0,
        share: float = 1.0,
    ) -> bool:
        """Whether a call that reserves so many tokens can start, taking places whose time has ended.

        Args:
            worker: where.
            program: whose.
            reserve_tokens: its prompt and all it may generate.
            now: Unix time in seconds.
            typical_tokens: what programs of its kind occupy on average.
            share: of what may be given out; above 1 for a call that cannot wait.
        """
        house = self.houses[worker]
        if house.capacity is None:
            return True
        resident = house.residents.get(program)
        before = 0 if resident is None else resident.tokens
        after = max(reserve_tokens, typical_tokens)
        if resident is not None:
            after = max(before, resident.running_tokens + reserve_tokens)
        missing = house.used - before + after - int(house.capacity * share)
        if missing <= 0:
            return True
        if not house.residents or (resident is not None and len(house.residents) == 1 and not resident.running):
            return True  # alone it runs, however large: the engine has the last word
        return self._make_room(worker, house, missing, program, now)

    def may_fit(self, worker: WorkerId, reserve_tokens: int, now: float) -> bool:
        """A quick look before `fits`: false only where a call of a program from elsewhere cannot start."""
        house = self.houses[worker]
        if house.capacity is None or house.used + reserve_tokens <= house.capacity or not house.residents:
            return True
        idle = house.next_idle()
        return idle is not None and idle.expires <= now

    def capacity(self) -> int:
        """Tokens that all workers together hold, as far as they tell."""
        return sum(house.capacity or 0 for house in self.houses.values())

    def touch(self, worker: WorkerId) -> None:
        """Something else about a worker has changed: it is worth looking at again."""
        self.changed.add(worker)

    def expire(self, now: float) -> None:
        """Notes the workers on which a place can be taken from now on."""
        while self._expiries and self._expiries[0][0] <= now:
            self.changed.add(heapq.heappop(self._expiries)[1])

    def _make_room(self, worker: WorkerId, house: House, missing: int, program: ProgramId, now: float) -> bool:
        own: tuple[float, int, ProgramId] | None = None
        while missing > 0:
            idle = house.next_idle()
            if idle is None or idle.expires > now:
                break
            entry = heapq.heappop(house.idle)
            if idle.program == program:
                own = entry
                continue
            missing -= idle.tokens
            self.evict(worker, idle.program)
        if own is not None:
            heapq.heappush(house.idle, own)
        return missing <= 0

    def start(self, worker: WorkerId, program: ProgramId, reserve_tokens: int, typical_tokens: int = 0) -> None:
        """A call of the program starts there; programs of its kind occupy `typical_tokens` on average."""
        house = self.houses.setdefault(worker, House())
        resident = house.residents.get(program)
        if resident is None:
            self._counter += 1
            resident = house.residents[program] = Resident(program, self._counter, typical_tokens=typical_tokens)
            house.used += typical_tokens
            self._homes.setdefault(program, {})[worker] = resident
        elif not resident.running:
            house.idle_tokens -= resident.tokens
        self.changed.add(worker)
        house.used -= resident.tokens
        resident.running_tokens += reserve_tokens
        resident.running += 1
        house.used += resident.tokens
        house.reserved += reserve_tokens

    def end(
        self, worker: WorkerId, program: ProgramId, reserve_tokens: int, context_tokens: int | None, expires: float
    ) -> None:
        """A call of the program ended there.

        Args:
            worker: where.
            program: whose.
            reserve_tokens: as when it started.
            context_tokens: what is in the cache now; None where that is not known.
            expires: the program keeps its place until then (Unix seconds).
        """
        house = self.houses.get(worker)
        resident = None if house is None else house.residents.get(program)
        if house is None or resident is None:
            return
        self.changed.add(worker)
        house.used -= resident.tokens
        resident.running_tokens -= reserve_tokens
        resident.running -= 1
        house.reserved -= reserve_tokens
        if context_tokens is not None:
            resident.context_tokens = max(resident.context_tokens, context_tokens)
        house.used += resident.tokens
        if resident.running:
            return
        resident.expires = expires
        house.rest(resident)
        if resident.context_tokens:
            heapq.heappush(self._expiries, (expires, worker))
        else:
            self.evict(worker, program)

    def evict(self, worker: WorkerId, program: ProgramId) -> None:
        """A program loses its place."""
        house = self.houses[worker]
        resident = house.residents.pop(program)
        self.changed.add(worker)
        house.used -= resident.tokens
        house.reserved -= resident.running_tokens
        if not resident.running:
            house.idle_tokens -= resident.tokens
        self._forget_home(program, worker)

    def leave(self, program: ProgramId) -> None:
        """A program has ended: all its idle places are free."""
        for worker, resident in list(self.homes(program).items()):
            if not resident.running:
                self.evict(worker, program)

    def could_clear(
        self, worker: WorkerId, program: ProgramId, reserve_tokens: int, since: int, share: float = 1.0
    ) -> bool:
        """Whether sending all idle programs away that came after `since` makes enough room: if not, none should go."""
        house = self.houses[worker]
        if house.capacity is None:
            return True
        resident = house.residents.get(program)
        before, mine, others = 0, 0, len(house.residents)
        after = reserve_tokens
        if resident is not None:
            before, others = resident.tokens, others - 1
            after = max(before, resident.running_tokens + reserve_tokens)
            mine = 0 if resident.running else before
        missing = house.used - before + after - int(house.capacity * share)
        if missing <= 0 or not others:
            return True
        if missing > house.idle_tokens - mine:
            return False
        return since < 0 or house.idle_since(since, program, missing) >= missing

    def next_expiry(self, now: float) -> float | None:
        """When the next place can be taken (Unix seconds)."""
        times = []
        for house in self.houses.values():
            idle = house.next_idle()
            if idle is not None and idle.expires > now:
                times.append(idle.expires)
        return min(times, default=None)

    def _forget_home(self, program: ProgramId, worker: WorkerId) -> None:
        homes = self._homes.get(program)
        if homes is not None:
            homes.pop(worker, None)
            if not homes:
                del self._homes[program]
