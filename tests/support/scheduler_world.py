"""A whole kernel in virtual time around the real scheduler core: callers, workers, a bus with faults, a durable queue.

Everything random comes from one seed, so a failing world can be lived through again. `check` holds after every event
what must always be true; `World.run` ends with what must be true in the end.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.call import ModelCall, WorkerId
from aios_scheduler.core.commands import Adopt, CancelRun, CheckResult, Command, Dispatch, Forget, Refuse
from aios_scheduler.core.configuration import PoolConfiguration
from aios_scheduler.core.endings import DEADLINE_LIMIT_S
from aios_scheduler.core.events import (
    Arrived,
    CancelAsked,
    Event,
    ResultChecked,
    RunEnded,
    RunReturned,
    Tick,
    WorkerLeft,
    WorkerSeen,
)

START = 1_000_000.0
LISTEN_S = 1.2
ARRIVALS_S = 30.0
MODELS = ("llama", "qwen")


@dataclass(frozen=True)
class Faults:
    """How unkind the world is.

    Attributes:
        lost, doubled, late: shares of messages between scheduler and workers; a late one is overtaken by others.
        crashes: worker crashes.
        restarts: scheduler restarts.
        outages: times in which no message gets through.
    """

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    crashes: int = 0
    restarts: int = 0
    outages: int = 0

    @property
    def messages_are_kept(self) -> bool:
        return not (self.lost or self.doubled or self.late or self.outages)


@dataclass
class Submitted:
    """A call as its caller knows it."""

    model: str | None
    priority: int
    deadline: float
    durable: bool
    answered_by_worker: bool = False
    ended_at: float | None = None
    abandoned: bool = False
    """Volatile, and the scheduler that knew it is gone."""


@dataclass
class SimWorker:
    """One worker process."""

    id: WorkerId
    model: str
    limit: int
    incarnation: int = 0
    alive: bool = True
    runs: dict[str, int] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    last_sent: float = 0.0


class World:
    """See the module."""

    def __init__(self, seed: int, faults: Faults, policy: PolicyName = "priority", calls: int = 40) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        self.policy: PolicyName = policy
        self.now = START
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.calls: dict[str, Submitted] = {}
        self.stored: dict[str, Submitted] = {}
        self.results: set[str] = set()
        self.scheduler_up = False
        self.down_s = 0.0
        self.outages: list[tuple[float, float]] = []
        self.workers = self._make_workers()
        self.core = self._new_core()
        self._start_scheduler()
        self._wake_token = 0
        for worker in self.workers:
            self._at(self.random.uniform(0, 0.5), self._beating(worker, worker.incarnation))
        for number in range(calls):
            self._at(self.random.uniform(0, ARRIVALS_S), self._submission(number))
        for _ in range(faults.crashes):
            self._at(self.random.uniform(1, ARRIVALS_S), self._crash)
        for _ in range(faults.restarts):
            self._at(self.random.uniform(2, ARRIVALS_S), self._stop_scheduler)
        for _ in range(faults.outages):
            begin = self.now + self.random.uniform(1, ARRIVALS_S)
            self.outages.append((begin, begin + self.random.uniform(0.1, 5)))

    def _make_workers(self) -> list[SimWorker]:
        return [
            SimWorker(("default", f"w{n}"), MODELS[n % 2], self.random.randint(1, 4))
            for n in range(self.random.randint(1, 4))
        ]

    def run(self) -> None:
        """Lives until nothing can happen any more but heartbeats, then looks at what is left."""
        end = START + ARRIVALS_S + 60
        while self._agenda and self._agenda[0][0] <= end:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        assert self.core.calls == {}, f"stuck: {[(c.key, c.state) for c in self.core.calls.values()]}"
        for key, call in self.calls.items():
            if call.abandoned:
                continue
            assert call.ended_at is not None, f"{key} was never answered"
            allowed = call.deadline + DEADLINE_LIMIT_S + 0.01
            if self.faults.restarts:
                allowed += self.down_s + LISTEN_S
            assert call.ended_at <= allowed, f"{key} ended {call.ended_at - call.deadline:.1f} s after its deadline"
        assert not self.stored, f"still in the durable queue: {sorted(self.stored)}"

    # Time

    def _at(self, delay: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (self.now + delay, self._count, action))

    def _message(self, deliver: Callable[[], None], sender: SimWorker) -> None:
        """Between scheduler and workers: in order and once, but for the faults."""
        if any(begin <= self.now < end for begin, end in self.outages) or self.random.random() < self.faults.lost:
            return
        if self.random.random() < self.faults.late:
            self._at(self.random.uniform(0.05, 1.5), deliver)
        else:
            sender.last_sent = max(sender.last_sent + 1e-6, self.now + self.random.uniform(0.0005, 0.01))
            self._at(sender.last_sent - self.now, deliver)
        if self.random.random() < self.faults.doubled:
            self._at(self.random.uniform(0.001, 1.5), deliver)

    # Callers

    def _submission(self, number: int) -> Callable[[], None]:
        def submit() -> None:
            key = f"t{self.random.randint(0, 2)}.agent.c{number}"
            durable = self.random.random() < 0.7
            model = self.random.choice((None, None, *{worker.model for worker in self.workers}))
            deadline = self.now + self.random.choice((0.5, 3, 20, 20))
            priority = self.random.randint(0, 9)
            call = self.calls[key] = Submitted(model, priority, deadline, durable)
            if durable:
                self.stored[key] = call
            elif not self.scheduler_up:
                call.abandoned = True
            if self.scheduler_up:
                self._arrive(key, recovered=False)
            if self.random.random() < 0.15:
                self._at(self.random.uniform(0, 3), lambda: self.feed(CancelAsked(key)))

        return submit

    def _arrive(self, key: str, *, recovered: bool) -> None:
        submitted = self.calls[key]
        tenant, agent, name = key.split(".")
        call = ModelCall(
            key=key,
            id=name,
            tenant=tenant,
            agent=agent,
            program="p",
            operation="chat",
            model=submitted.model,
            priority=submitted.priority,
            deadline=submitted.deadline,
            arrived=self.now,
            durable=submitted.durable,
            size_bytes=100,
        )
        self.feed(Arrived(call, recovered))

    # The scheduler's process

    def _new_core(self) -> SchedulerCore:
        return SchedulerCore(PoolConfiguration(self.policy))

    def _start_scheduler(self) -> None:
        self.core = self._new_core()
        self.core.hold_until(self.now + LISTEN_S)
        self.scheduler_up = True
        for key in list(self.stored):
            if key in self.results:
                self._end(key)
            else:
                self._arrive(key, recovered=True)

    def _stop_scheduler(self) -> None:
        if not self.scheduler_up:
            return
        self.scheduler_up = False
        for key in self.core.calls:
            if not self.calls[key].durable:
                self.calls[key].abandoned = True
        down = self.random.uniform(0.05, 3)
        self.down_s += down
        self._at(down, self._start_scheduler)

    def feed(self, event: Event) -> None:
        if not self.scheduler_up:
            return
        commands = self.core.on_event(event, self.now)
        self.check(commands)
        for command in commands:
            self._execute(command)
        self._wake_token += 1
        token, core = self._wake_token, self.core
        wake = core.next_wake(self.now)
        if wake is not None:
            assert wake > self.now, "the scheduler wants to wake in the past"
            self._at(wake - self.now, lambda: self.feed(Tick()) if self._wake_token == token else None)

    def check(self, commands: list[Command]) -> None:
        """What holds after every event."""
        core = self.core
        by_worker: dict[WorkerId, list[ModelCall]] = {}
        for command in commands:
            if isinstance(command, Dispatch):
                by_worker.setdefault(command.worker, []).append(command.call)

        def rank(call: ModelCall) -> tuple[int, int]:
            return (0 if self.policy == "fifo" else -call.priority, call.order)

        for worker_id, given in by_worker.items():
            worker = core.workers.get(worker_id)
            assert worker is not None, "given to a worker that is gone"
            assert worker.in_use <= worker.limit, f"{worker_id} has {worker.in_use} of {worker.limit} slots in use"
            assert [rank(call) for call in given] == sorted(rank(call) for call in given), "out of order"
            worst = rank(given[-1])
            for call in given:
                assert call.model in (None, worker.model), "given to a worker with another model"
            for waiting in core.pools.get("default").queue:
                if waiting.model in (None, worker.model):
                    assert rank(waiting) > worst, f"{given[-1].key} overtook {waiting.key}"
        running = {key for worker in core.workers for key in worker.running}
        for call in core.calls.values():
            if call.state == "running":
                assert call.worker is not None
                known = core.workers.get(call.worker)
                assert known is not None, f"{call.key} runs nowhere"
                assert call.key in known.running, f"{call.key} runs nowhere"
        assert running <= core.calls.keys(), f"slots held by ended calls: {running - core.calls.keys()}"

    def _execute(self, command: Command) -> None:
        match command:
            case Dispatch(call, worker_id, attempt, incarnation):
                worker = self._worker(worker_id)
                self._message(lambda: self._run(worker, int(incarnation), call.key, attempt), worker)
            case CancelRun(call, worker_id, _):
                worker = self._worker(worker_id)
                self._message(lambda: self._cancel_run(worker, call.key), worker)
            case Refuse(call, _):
                self._end(call.key)
            case Forget(call, _):
                assert self.calls[call.key].answered_by_worker, f"{call.key} was forgotten without an answer"
                self._end(call.key)
            case CheckResult(call):
                self._look_up(call.key, self.core)
            case Adopt():
                pass

    def _look_up(self, key: str, core: SchedulerCore) -> None:
        until = max((end for begin, end in self.outages if begin <= self.now < end), default=self.now)

        def answer() -> None:
            if core is self.core:
                self.feed(ResultChecked(key, key in self.results))

        self._at(until - self.now + self.random.uniform(0.0005, 0.02), answer)

    def _end(self, key: str) -> None:
        call = self.calls[key]
        assert call.ended_at is None, f"{key} ended twice"
        call.ended_at = self.now
        self.stored.pop(key, None)

    # Workers

    def _worker(self, worker: WorkerId) -> SimWorker:
        return next(known for known in self.workers if known.id == worker)

    def _report(self, worker: SimWorker, event: Event) -> None:
        self._message(lambda: self.feed(event), worker)

    def _beating(self, worker: SimWorker, incarnation: int) -> Callable[[], None]:
        def beat() -> None:
            if worker.alive and worker.incarnation == incarnation:
                self._hello(worker)
                self._at(0.5, beat)

        return beat

    def _hello(self, worker: SimWorker) -> None:
        running = dict.fromkeys(worker.runs, 1)
        self._report(worker, WorkerSeen(worker.id, str(worker.incarnation), worker.model, worker.limit, True, running))

    def _run(self, worker: SimWorker, incarnation: int, key: str, attempt: int) -> None:
        if not worker.alive or worker.incarnation != incarnation:
            return
        if key in worker.runs:
            worker.runs[key] = attempt
            return
        if key in worker.ended:
            self._report(worker, RunEnded(key, worker.id))
            return
        if not (self.faults.doubled or self.faults.late or self.faults.outages):
            assert key not in self.results, f"{key} runs again though its result is stored"
        if self.faults.messages_are_kept:
            assert len(worker.runs) < worker.limit, f"{worker.id} was given more than it takes"
            elsewhere = [other.id for other in self.workers if other.alive and key in other.runs]
            assert not elsewhere, f"{key} runs on {worker.id} and {elsewhere}"
        if self.random.random() < 0.1:
            reason = self.random.choice(("overloaded", "unavailable"))
            self._report(worker, RunReturned(key, worker.id, attempt, reason))  # type: ignore[arg-type]
            return
        worker.runs[key] = attempt
        took = self.random.choice((0.02, 0.3, 1, 2, 6, 1000))
        took = min(took, max(0.0, self.calls[key].deadline - self.now))
        broke = self.random.random() < 0.05
        self._at(took, lambda: self._finish(worker, incarnation, key, broke))

    def _cancel_run(self, worker: SimWorker, key: str) -> None:
        if worker.alive and key in worker.runs:
            self._finish(worker, worker.incarnation, key, broke=False)

    def _finish(self, worker: SimWorker, incarnation: int, key: str, broke: bool) -> None:
        if not worker.alive or worker.incarnation != incarnation or key not in worker.runs:
            return
        attempt = worker.runs.pop(key)
        if broke:
            self._report(worker, RunReturned(key, worker.id, attempt, "failed"))
            return
        call = self.calls[key]
        call.answered_by_worker = True
        worker.ended.add(key)
        if call.durable:
            self.results.add(key)
        self._report(worker, RunEnded(key, worker.id))

    def _crash(self) -> None:
        worker = self.random.choice(self.workers)
        if not worker.alive:
            return
        if self.random.random() < 0.3:  # it had time to say goodbye
            for key, attempt in list(worker.runs.items()):
                self._report(worker, RunReturned(key, worker.id, attempt, "draining"))
            self._report(worker, WorkerLeft(worker.id, str(worker.incarnation)))
        worker.alive = False
        worker.runs.clear()
        worker.ended.clear()
        self._at(self.random.uniform(0.1, 8), lambda: self._revive(worker))

    def _revive(self, worker: SimWorker) -> None:
        worker.alive = True
        worker.incarnation += 1
        self._beating(worker, worker.incarnation)()
