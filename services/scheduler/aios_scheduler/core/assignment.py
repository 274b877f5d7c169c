"""Which waiting call gets which worker, and what a run means for memory and accounts.

In this order: calls that must start now to meet their deadline; calls of programs that live on a worker, because
they need nobody else's memory; then the policy's order, as long as the first of it finds room somewhere.
"""

from aios_scheduler.core.accounting import Accounts
from aios_scheduler.core.call import CACHED_WEIGHT, OUTPUT_WEIGHT, PROMPT_WEIGHT, CallState, ModelCall
from aios_scheduler.core.commands import Command, Dispatch, Preempt
from aios_scheduler.core.deadlines import Deadlines
from aios_scheduler.core.events import RunEnded
from aios_scheduler.core.isolation import Isolation
from aios_scheduler.core.learnt import NEVER_S, Learnt
from aios_scheduler.core.placement import SPREAD_SHARE, by_load, fullness, home_of
from aios_scheduler.core.preemption import cheapest_stop, outranked, over_quantum
from aios_scheduler.core.queue import CallQueue
from aios_scheduler.core.residency import Residency
from aios_scheduler.core.workers import PoolWorkers, Worker

RECOMPUTE_S_PER_TOKEN = 5e-5
"""What a kept context saves: 25 µs of a GPU for each prompt token, and as much again for the wait for a new place."""

MOST_URGENT_IN_A_ROW = 8
"""Urgent calls that go first before one of the others must."""

URGENT_SHARE = 1.04
"""Urgent calls may use a little of the memory that is kept back."""


class Assignment:
    """A pool's waiting and running calls, and the workers they compete for.

    Attributes:
        stirred: something has happened since the last `dispatch` that may let a waiting call run.
    """

    def __init__(
        self,
        queue: CallQueue,
        workers: PoolWorkers,
        calls: dict[str, ModelCall],
        accounts: Accounts,
        learnt: Learnt,
        isolation: Isolation,
    ) -> None:
        self.queue = queue
        self.workers = workers
        self.calls = calls
        self.accounts = accounts
        self.learnt = learnt
        self.isolation = isolation
        self.residency = Residency()
        self.deadlines = Deadlines()
        self.stirred = True
        self._urgent_in_a_row = 0
        # The first call for a model, where no worker had room for it: only changed workers need be asked again.
        self._without_room: dict[str, ModelCall] = {}

    def enqueue(self, call: ModelCall) -> None:
        """A call may run from now on."""
        self.stirred = True
        call.state, call.worker = CallState.QUEUED, None
        call.needs = self.needs(call)
        home = home_of(call.program_id, self.residency) if self.queue.policy.keeps_residents else None
        if home is not None:
            known = self.workers.get(home)
            if known is None or not known.serves(call.model) or known.draining or not known.ready:
                home = None
        if home is not None:
            self.residency.touch(home)
        if not self.queue.waits_of(call.tenant):
            self.accounts.comes_to_wait(call.tenant, self.queue.by_tenant)
        self.queue.push(call, home)

    def run_on(self, worker: Worker, call: ModelCall, now: float) -> None:
        """A call runs on a worker from now on."""
        call.state, call.worker, call.dispatched, call.preempting = CallState.RUNNING, worker.id, now, False
        call.made_before = call.made
        worker.took(call.key)
        call.reserved = call.needs
        resident = self.residency.homes(call.program_id).get(worker.id)
        cached = 0 if resident is None else min(resident.context_tokens, call.prompt_tokens)
        typical = self._typical(call) if resident is None else 0
        self.residency.start(worker.id, call.program_id, call.reserved, typical)
        self.isolation.started(call.tenant, call.reserved)
        if not call.charged:
            call.prompt_cost = _prompt_cost(call.prompt_tokens, cached)
            self._charge(call, call.prompt_cost + OUTPUT_WEIGHT * call.expected_output, now)
        self.close_promise(call)

    def leave(self, call: ModelCall, now: float, context_tokens: int | None = None, keep_s: float = 0.0) -> None:
        """A call runs no more; its program keeps its place for `keep_s` seconds."""
        self.stirred = True
        if call.worker is not None and call.reserved:
            self.residency.end(call.worker, call.program_id, call.reserved, context_tokens, now + keep_s)
            self.isolation.started(call.tenant, -call.reserved)
            call.reserved = 0

    def slot_free(self, call: ModelCall) -> None:
        """A call of a program ended: those of its calls that wait at another of its homes may run here."""
        homes = self.residency.homes(call.program_id)
        if len(homes) > 1:
            self.residency.changed.update(homes)

    def worker_gone(self, worker: Worker) -> None:
        """A worker is gone with its memory: calls that waited for it may go to any other."""
        self.stirred = True
        self.residency.drop_worker(worker.id)
        self.queue.unpark()
        while (call := self.queue.first_at(worker.id)) is not None:
            self.queue.move(call)

    def ended(self, call: ModelCall, event: RunEnded, now: float, *, awaited: bool) -> None:
        """Takes in what a call really cost, and for how long its program will be missed.

        Args:
            call: it ran.
            event: how it ended.
            now: Unix time in seconds.
            awaited: other calls wait for this one, so the program goes on at once.
        """
        if event.prompt_tokens or event.completion_tokens:
            cost = _prompt_cost(event.prompt_tokens, event.cached_tokens) + OUTPUT_WEIGHT * event.completion_tokens
            self._charge(call, cost, now)
        program = self.accounts.program(call)
        program.tool = event.tool
        program.marks.append(program.attained)
        context = None
        if event.succeeded and event.prompt_tokens:
            self.learnt.observe_call(call, event.prompt_tokens, event.completion_tokens, event.cached_tokens)
            self.deadlines.observe(event.prompt_tokens, event.completion_tokens, now - call.dispatched)
            context = event.prompt_tokens + event.completion_tokens - self.learnt.shared_prefix(call.agent)
        self.leave(call, now, context, self._keep_s(call, event, awaited=awaited))

    def progressed(self, worker: Worker, call: ModelCall, tokens: int, now: float) -> None:
        """A worker said how many tokens a call has made."""
        if call.worker == worker.id and tokens > call.made:
            call.made = tokens
            self._charge(call, call.prompt_cost + OUTPUT_WEIGHT * max(tokens, call.expected_output), now)

    def came_back(self, call: ModelCall) -> None:
        """A call arrived: if its program was away, that is how long its tool took."""
        program = self.accounts.program(call)
        if program.ended_at and program.open == 1:
            gap = max(0.0, call.arrived - program.ended_at)
            self.learnt.gaps(call.tenant, call.agent, program.tool).add(gap)
            program.ended_at = 0.0

    def end_programs(self, now: float) -> None:
        """Programs that were away for too long are taken as ended."""
        for program in self.accounts.ended_before(now - NEVER_S):
            tenant, agent, _ = program.id
            self.learnt.gaps(tenant, agent, program.tool).add(2 * NEVER_S)
            self.learnt.observe_program(program)
            self.residency.leave(program.id)

    def promise(self, call: ModelCall) -> None:
        """A call with a deadline waits."""
        self.deadlines.promise(call)
        call.promised = True

    def close_promise(self, call: ModelCall) -> None:
        """It has started, or ended."""
        if call.promised:
            call.promised = False
            self.deadlines.keep(call)

    def dispatch(self, now: float, commands: list[Command]) -> None:
        """Gives out as many waiting calls as find room."""
        self.stirred = False
        self.residency.expire(now)
        if self.queue.parked:
            self._without_room.clear()
            self.queue.unpark()
        with_room = self.workers.with_room(now)
        while len(self.queue):
            given = (
                self._dispatch_urgent(with_room, now, commands)
                or (with_room and self._dispatch_resident(with_room, now, commands))
                or (with_room and self._dispatch_next(with_room, now, commands))
            )
            if not given:
                break
            with_room = [worker for worker in with_room if worker.in_use < worker.limit]
        self.residency.changed.clear()

    def look_again(self) -> None:
        """Time has passed, or an order was given: every worker is worth a look."""
        self.stirred = True
        self.residency.changed.update(worker.id for worker in self.workers)
        self._without_room.clear()

    def slice(self, worker: Worker, now: float, commands: list[Command]) -> None:
        """Stops a call that has used its quantum, or is of lower priority, while one before it waits for room."""
        if not worker.can_preempt:
            return
        for first in (self.queue.first_at(worker.id), self.queue.first(worker.model)):
            if first is None:
                continue
            victim = over_quantum(worker, self.calls, self.queue, first)
            victim = victim or outranked(worker, self.calls, self.queue, first, now)
            if victim is not None:
                victim.preempting = True
                commands.append(Preempt(victim, worker.id))
                return

    def _dispatch_urgent(self, with_room: list[Worker], now: float, commands: list[Command]) -> bool:
        if self._urgent_in_a_row >= MOST_URGENT_IN_A_ROW:
            return False
        call = self.queue.first_urgent(now)
        if call is None:
            return False
        ordered = by_load(with_room, self.residency)
        for worker in ordered:
            if worker.serves(call.model) and self._fits(worker, call, now, URGENT_SHARE):
                self._give(worker, call, now, commands)
                self._urgent_in_a_row += 1
                return True
        for worker in ordered:
            if worker.serves(call.model) and self._clear(worker, call, now, URGENT_SHARE):
                return True  # it fits there now
        victim = cheapest_stop(call, self.workers, self.calls, now)
        if victim is not None and victim.worker is not None:
            victim.preempting = True
            commands.append(Preempt(victim, victim.worker))
        return False

    def _dispatch_resident(self, with_room: list[Worker], now: float, commands: list[Command]) -> bool:
        changed = self.residency.changed
        names = sorted(changed)
        for name in names:
            if len(changed) > len(names):  # a look at one worker can make room on another, which then has its turn
                names += sorted(changed.difference(names))
            worker = self.workers.get(name)
            if worker is None or not self.queue.waits_at(name):
                continue
            while (call := self.queue.first_at(worker.id)) is not None:
                if worker.id not in self.residency.homes(call.program_id) or worker.draining or not worker.ready:
                    self.queue.move(call)
                    continue
                if self._is_held_back(call, now):
                    continue
                target = self._near(worker, call, with_room, now)
                if target is None:
                    break
                self._give(target, call, now, commands)
                return True
        return False

    def _dispatch_next(self, with_room: list[Worker], now: float, commands: list[Command]) -> bool:
        self._urgent_in_a_row = 0
        heads: dict[str, ModelCall | None] = {}
        candidates: list[tuple[float, Worker, ModelCall]] = []
        changed, without_room = self.residency.changed, self._without_room
        for worker in with_room:
            model = worker.model
            if model not in heads:
                while (head := self.queue.first(model)) is not None and self._is_held_back(head, now):
                    pass
                heads[model] = head
            call = heads[model]
            if call is None or (worker.id not in changed and without_room.get(model) is call):
                continue
            if self._may_fit(worker, call, now):
                candidates.append((fullness(worker, self.residency), worker, call))
        if len(candidates) > 1:
            candidates.sort(key=lambda candidate: (candidate[0], candidate[1].id))
        for _, worker, call in candidates:
            if self._fits(worker, call, now):
                self._without_room.pop(worker.model, None)
                self._give(worker, call, now, commands)
                return True
        for model, head in heads.items():
            if head is not None:
                without_room[model] = head
        return False

    def _is_held_back(self, call: ModelCall, now: float) -> bool:
        """Whether its tenant floods and has its share already; then all its calls of this priority are passed over."""
        if self.isolation.allows(call.tenant, call.needs, now, self.residency.capacity):
            return False
        self.queue.park(call)
        return True

    def _near(self, home: Worker, call: ModelCall, with_room: list[Worker], now: float) -> Worker | None:
        """The worker for a call whose program lives on `home`; None if it must wait."""
        resident = self.residency.homes(call.program_id)[home.id]
        if resident.running:
            # A slot elsewhere is better than none here; otherwise the move must be worth what the prefix costs there.
            limit = fullness(home, self.residency) - (SPREAD_SHARE if home.in_use < home.limit else 0.0)
            emptier = [worker for worker in with_room if fullness(worker, self.residency) <= limit]
            for other in by_load(emptier, self.residency):
                if other.serves(call.model) and self._fits(other, call, now):
                    return other
        if not home.takes_more(now):
            return None
        return home if self._clear(home, call, now, since=resident.since) else None

    def _clear(self, worker: Worker, call: ModelCall, now: float, share: float = 1.0, since: int = -1) -> bool:
        """Makes room for a call by sending idle programs away, the youngest first, of those that came after `since`."""
        if not self.residency.could_clear(worker.id, call.program_id, call.needs, since, share):
            return False
        while not self._fits(worker, call, now, share):
            victim = self.residency.houses[worker.id].youngest_idle(call.program_id)
            if victim is None or victim.since < since:
                return False
            self.residency.evict(worker.id, victim.program)
        return True

    def _fits(self, worker: Worker, call: ModelCall, now: float, share: float = 1.0) -> bool:
        typical = 0 if worker.id in self.residency.homes(call.program_id) else self._typical(call)
        return self.residency.fits(worker.id, call.program_id, call.needs, now, typical_tokens=typical, share=share)

    def needs(self, call: ModelCall) -> int:
        """KV a call occupies beside what it shares with other programs of its agent."""
        return max(1, call.reserve_tokens - self.learnt.shared_prefix(call.agent))

    def _may_fit(self, worker: Worker, call: ModelCall, now: float) -> bool:
        """Whether it is worth looking closer: there is room, or somebody's time has ended."""
        return self.residency.may_fit(worker.id, call.needs, now)

    def _typical(self, call: ModelCall) -> int:
        if not self.queue.policy.keeps_residents:
            return 0
        return self.learnt.typical_context(call.tenant, call.agent)

    def _give(self, worker: Worker, call: ModelCall, now: float, commands: list[Command]) -> None:
        self.queue.remove(call)
        call.attempt += 1
        self.accounts.last_served = self.accounts.tenant(call.tenant).counter
        self.run_on(worker, call, now)
        commands.append(Dispatch(call, worker.id, call.attempt, worker.incarnation))

    def _keep_s(self, call: ModelCall, event: RunEnded, *, awaited: bool) -> float:
        if not self.queue.policy.keeps_residents or call.worker is None:
            return 0.0
        if awaited:
            return NEVER_S
        house = self.residency.houses.get(call.worker)
        if house is None or house.capacity is None:
            return 0.0
        return self.learnt.gaps(call.tenant, call.agent, event.tool).keep_s(RECOMPUTE_S_PER_TOKEN * house.capacity)

    def _charge(self, call: ModelCall, total: float, now: float) -> None:
        """Charges what a call has cost so far, less what was charged before."""
        delta = total - call.charged
        if delta:
            call.charged = total
            self.accounts.charge(call, delta)
            self.deadlines.observe_work(delta, now, busy=len(self.queue) > 0)
            if delta < 0:
                self.queue.lowered(self.queue.policy.flow(call))


def _prompt_cost(prompt_tokens: int, cached_tokens: int) -> float:
    return PROMPT_WEIGHT * (prompt_tokens - cached_tokens) + CACHED_WEIGHT * cached_tokens
