"""Which workers live, what each runs, and how much more each takes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from aios_proto.kernel import WORKER_TIMEOUT_S
from aios_scheduler.core.call import WorkerId
from aios_scheduler.core.events import WorkerSeen

MODEL_MEMORY_S = 600.0
"""So long after its last worker was heard of a model still counts as served: workers restart."""


@dataclass(slots=True)
class Worker:
    """One live worker.

    Attributes:
        wanted: calls it says it takes at once.
        limit: calls it is given at once: its share of them where others have the same engine.
        kv_tokens: tokens its KV cache holds, or its share of them; None where the engine does not tell.
        engine: the same for workers that share an engine; empty where that is not known.
        running: keys of the calls given to it and not ended.
        reported: keys it said it works on, in its last heartbeat, less those that ended since.
        foreign: those of them that were not given to it here, or were given up.
        in_use: slots in use, also by calls this scheduler does not know: those a scheduler before it gave away.
        paused_until: it was overloaded; nothing new before this time (Unix seconds).
        seen: when it was last heard of (Unix seconds).
    """

    id: WorkerId
    incarnation: str
    model: str
    wanted: int
    ready: bool
    seen: float
    limit: int
    draining: bool = False
    paused_until: float = 0.0
    max_input_tokens: int = 0
    max_total_tokens: int = 0
    engine_kv_tokens: int | None = None
    kv_tokens: int | None = None
    can_preempt: bool = False
    engine: str = ""
    running: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)
    in_use: int = 0

    def takes_more(self, now: float) -> bool:
        """Whether it may be given a call now."""
        return self.in_use < self.limit and self.ready and not self.draining and now >= self.paused_until

    def serves(self, model: str | None) -> bool:
        """Whether it has the model asked for; None is any."""
        return model is None or model == self.model

    @property
    def load(self) -> float:
        """Share of its slots in use."""
        return self.in_use / self.limit

    def took(self, key: str) -> None:
        """It was given a call, or works on one that is known now."""
        self.running.add(key)
        self.foreign.discard(key)
        self._count()

    def free(self, key: str) -> None:
        """It does not work on this call any more."""
        self.running.discard(key)
        self.reported.discard(key)
        self.foreign.discard(key)
        self._count()

    def give_up(self, key: str) -> None:
        """The call is not ours any more; as long as the worker reports it, it keeps its slot."""
        self.running.discard(key)
        if key in self.reported:
            self.foreign.add(key)
        self._count()

    def reports(self, keys: Iterable[str]) -> None:
        """It says that it works on these calls."""
        self.reported = set(keys)
        self.foreign = self.reported - self.running
        self._count()

    def _count(self) -> None:
        self.in_use = len(self.running) + len(self.foreign)


class PoolWorkers:
    """The live workers of one pool."""

    def __init__(self) -> None:
        self._workers: dict[WorkerId, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, worker: WorkerId) -> Worker | None:
        """The worker of that name, if it lives."""
        return self._workers.get(worker)

    def add(self, worker: Worker) -> None:
        """A worker came."""
        self._workers[worker.id] = worker

    def remove(self, worker: WorkerId) -> None:
        """A worker is gone."""
        self._workers.pop(worker, None)

    def with_room(self, now: float) -> list[Worker]:
        """Those that may be given a call now."""
        # As `Worker.takes_more`, without a call for each: this is asked with every event.
        return [
            worker
            for worker in self._workers.values()
            if worker.in_use < worker.limit and worker.ready and not worker.draining and now >= worker.paused_until
        ]


class WorkerTable:
    """All live workers."""

    def __init__(self) -> None:
        self._workers: dict[WorkerId, Worker] = {}
        self._pools: dict[str, PoolWorkers] = {}
        self._engines: dict[str, dict[WorkerId, Worker]] = {}
        self._served: dict[tuple[str, str], float] = {}
        # No worker is silent before this time: they were all heard of later than it says.
        self._silence_from = 0.0

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    def of_pool(self, pool: str) -> PoolWorkers:
        """Those of one pool, now and later."""
        found = self._pools.get(pool)
        if found is None:
            found = self._pools[pool] = PoolWorkers()
        return found

    def get(self, worker: WorkerId) -> Worker | None:
        """The worker of that name, if it lives."""
        return self._workers.get(worker)

    def seen(self, event: WorkerSeen, now: float) -> tuple[Worker, bool]:
        """Takes a heartbeat in. The caller has dealt with an older incarnation before.

        Returns:
            The worker, and whether it takes other calls than before: it is new, or has another model or state.
        """
        worker = self._workers.get(event.worker)
        changed = worker is None or (worker.model, worker.ready) != (event.model, event.ready)
        if worker is None:
            worker = self._workers[event.worker] = Worker(
                event.worker, event.incarnation, event.model, event.limit, event.ready, now, event.limit
            )
            self.of_pool(event.worker[0]).add(worker)
        worker.model, worker.wanted, worker.ready, worker.seen = event.model, event.limit, event.ready, now
        worker.max_input_tokens, worker.max_total_tokens = event.max_input_tokens, event.max_total_tokens
        worker.engine_kv_tokens, worker.can_preempt = event.kv_tokens, event.can_preempt
        if worker.engine != event.engine:
            self._leave_engine(worker)
            worker.engine = event.engine
        if worker.engine:
            self._engines.setdefault(worker.engine, {})[worker.id] = worker
        worker.reports(event.running)
        _share(self.on_engine_of(worker))
        self._served[event.worker[0], worker.model] = now
        return worker, changed

    def drain(self, worker: Worker, *, drain: bool) -> None:
        """Gives a worker nothing new, or again; others on its engine take over its share, or give it back."""
        worker.draining = drain
        _share(self.on_engine_of(worker))

    def remove(self, worker: WorkerId) -> Worker | None:
        """Forgets a worker and returns what was known of it."""
        self.of_pool(worker[0]).remove(worker)
        gone = self._workers.pop(worker, None)
        if gone is not None:
            self._leave_engine(gone)
        return gone

    def on_engine_of(self, worker: Worker) -> list[Worker]:
        """The live workers that share a worker's engine, and itself if it lives."""
        if not worker.engine:
            return [worker] if worker.id in self._workers else []
        return list(self._engines.get(worker.engine, {}).values())

    def _leave_engine(self, worker: Worker) -> None:
        others = self._engines.get(worker.engine, {})
        others.pop(worker.id, None)
        _share(list(others.values()))
        if not others:
            self._engines.pop(worker.engine, None)

    def is_unknown(self, model: str, pool: str | None, now: float) -> bool:
        """Whether workers live, in that pool if one is named, and none has served this model for `MODEL_MEMORY_S`.

        Without workers nobody knows.
        """
        asked = [worker for worker in self if pool in (None, worker.id[0])]
        if not asked or any(worker.model == model for worker in asked):
            return False
        for gone in [served for served, seen in self._served.items() if now - seen > MODEL_MEMORY_S]:
            del self._served[gone]
        return not any(served == model and pool in (None, where) for where, served in self._served)

    def remembers(self, pool: str, now: float) -> bool:
        """Whether a pool has workers, or had within `MODEL_MEMORY_S`."""
        return any(where == pool and now - seen <= MODEL_MEMORY_S for (where, _), seen in self._served.items())

    def drop_pool(self, pool: str) -> None:
        """Forgets a pool that has no workers."""
        if not self._pools.get(pool):
            self._pools.pop(pool, None)

    def silent(self, now: float) -> list[Worker]:
        """Workers not heard of for too long."""
        if now < self._silence_from:
            return []
        self._silence_from = self.next_silence() or 0.0
        return [worker for worker in self._workers.values() if now >= worker.seen + WORKER_TIMEOUT_S]

    def next_silence(self) -> float | None:
        """When the next worker would count as silent (Unix seconds)."""
        return min((worker.seen + WORKER_TIMEOUT_S for worker in self._workers.values()), default=None)

    def reporting(self, key: str) -> Worker | None:
        """The worker that says it works on this call."""
        return next((worker for worker in self._workers.values() if key in worker.reported), None)


def _share(workers: list[Worker]) -> None:
    """Divides what an engine takes among its workers; what is left over goes to the first by name.

    A worker that is given nothing new keeps what its calls use, and the others share the rest.
    """
    if len(workers) == 1:
        (alone,) = workers
        alone.limit, alone.kv_tokens = alone.wanted, alone.engine_kv_tokens
        return
    whole = max((worker.wanted for worker in workers), default=0)
    taking = sorted((worker for worker in workers if worker.ready and not worker.draining), key=lambda each: each.id)
    rest = max(0, whole - sum(worker.in_use for worker in workers if worker not in taking))
    for place, worker in enumerate(taking):
        share = rest // len(taking) + (place < rest % len(taking))
        worker.limit = min(worker.wanted, max(1, share))
        kv_tokens = worker.engine_kv_tokens
        worker.kv_tokens = None if kv_tokens is None else kv_tokens // len(taking)
