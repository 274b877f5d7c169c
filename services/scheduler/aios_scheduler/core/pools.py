"""Which pool a call waits in: the one it names, else one that serves its model.

A call that names no pool is not bound to the one it was given: it moves on when no worker there serves it any more,
and when another pool is idle.
"""

from collections.abc import Iterator

from aios_proto.errors import ModelUnknown, QueueFull, ResourceNotFound
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.commands import Command
from aios_scheduler.core.configuration import DEFAULT_POOL, Configuration
from aios_scheduler.core.pool import Pool
from aios_scheduler.core.workers import WorkerTable

MAX_QUEUED_BYTES = 512 << 20
"""Bodies of waiting calls held in memory, at the most."""


class Pools:
    """All pools that have workers or calls, or had.

    Args:
        configuration: what holds in each.
        workers: those of all pools.
        calls: all open calls.
    """

    def __init__(self, configuration: Configuration, workers: WorkerTable, calls: dict[str, ModelCall]) -> None:
        self.configuration = configuration
        self._workers = workers
        self._calls = calls
        self._pools: dict[str, Pool] = {}
        self.get(DEFAULT_POOL)

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools.values())

    def __len__(self) -> int:
        return len(self._pools)

    def get(self, name: str) -> Pool:
        """The pool of that name."""
        found = self._pools.get(name)
        if found is None:
            configuration = self.configuration.of(name)
            found = self._pools[name] = Pool(name, configuration, self._workers.of_pool(name), self._calls)
        return found

    def of(self, call: ModelCall) -> Pool:
        """The pool a call was given."""
        return self._pools[call.pool]

    def configure(self, configuration: Configuration) -> None:
        """Decides by this from now on.

        Raises:
            InvalidRequest: there is no policy of a name.
        """
        for pool in self:
            pool.configure(configuration.of(pool.name))
        self.configuration = configuration

    def queued(self) -> int:
        """How many calls wait to run."""
        return sum(len(pool.queue) for pool in self)

    def check(self, call: ModelCall, now: float) -> None:
        """Whether a new call can be served at all.

        Raises:
            ResourceNotFound: nobody has heard of the pool it names.
            ModelUnknown: no worker serves its model, in the pool it names if it names one.
        """
        pool, model = (call.pool if call.bound else None), call.model
        if pool is not None and pool not in self._pools and pool not in self.configuration.pools:
            raise ResourceNotFound(f"there is no pool {pool!r}", field="pool")
        if model is not None and self._workers.is_unknown(model, pool, now):
            where = "" if pool is None else f" of pool {pool!r}"
            raise ModelUnknown(f"no worker{where} serves a model {model!r}", field="model")

    def refused(self, call: ModelCall) -> None:
        """A new call was refused."""
        if (pool := self._pools.get(call.pool)) is not None:
            pool.accounts.refused(call)

    def forget_unused(self, now: float) -> None:
        """Forgets the pools that have had neither workers nor calls for long, and that nobody has configured."""
        if len(self) == 1:
            return
        for name in [pool.name for pool in self if not pool.open_calls]:
            configured = name == DEFAULT_POOL or name in self.configuration.pools
            if not configured and not self._workers.remembers(name, now):
                del self._pools[name]
                self._workers.drop_pool(name)

    def check_room(self, call: ModelCall) -> None:
        """Whether a new call may wait in the pool it was given.

        Raises:
            QueueFull: it may not, and when to try again.
        """
        pool = self.of(call)
        pool.queue.check_room(call, pool.retry_after_s())
        if sum(each.queue.size_bytes for each in self) + call.size_bytes > MAX_QUEUED_BYTES:
            raise QueueFull(f"{self.queued()} calls wait already", retry_after_s=pool.retry_after_s())

    def choose(self, call: ModelCall) -> Pool:
        """The pool for a call: the one it names, where its program lives, or the emptiest that serves its model."""
        if call.bound:
            return self.get(call.pool)
        if len(self) == 1:
            return self.get(DEFAULT_POOL)
        able = [pool for pool in self if pool.serves(call.model)]
        if len(able) > 1:
            at_home = [pool for pool in able if pool.assignment.residency.homes(call.program_id)]
            return min(at_home or able, key=_fullness)
        if able:
            return able[0]
        known = [pool for pool in self if any(worker.serves(call.model) for worker in pool.workers)]
        return known[0] if known else self._pools.get(call.pool) or self.get(DEFAULT_POOL)

    def move(self, call: ModelCall, pool: Pool, now: float) -> None:
        """Gives a call that does not run to another pool. The caller puts it into a queue there, if it may run."""
        before = self.of(call)
        if before is pool:
            return
        promised = call.promised
        before.give_away(call, now)
        call.pool = pool.name
        call.charged = call.prompt_cost = 0.0  # what it had there was had there
        path_work = call.path_work
        pool.estimate(call)
        call.path_work = max(call.path_work, path_work)
        pool.take_in(call, now)
        if promised:
            pool.assignment.promise(call)

    def enqueue(self, call: ModelCall, now: float) -> None:
        """A call may run from now on, in its pool or, if nobody serves it there, in another."""
        if len(self) > 1 and not call.bound and not self.of(call).serves(call.model):
            self.move(call, self.choose(call), now)
        self.of(call).assignment.enqueue(call)

    def workers_changed(self, now: float) -> None:
        """Workers came, went, or take calls otherwise than before: moves the calls nobody serves where they wait."""
        if len(self) == 1:
            return
        for pool in list(self):
            served: dict[str | None, bool] = {}
            for call in list(pool.queue):
                if call.model not in served:
                    served[call.model] = pool.serves(call.model)
                if not call.bound and not served[call.model]:
                    chosen = self.choose(call)
                    if chosen is not pool:
                        self.move(call, chosen, now)
                        chosen.assignment.enqueue(call)

    def dispatch(self, now: float, commands: list[Command]) -> None:
        """Gives out as many waiting calls as find room, first in the pools they wait in, then in idle ones."""
        for pool in self:
            if pool.assignment.stirred:
                pool.assignment.dispatch(now, commands)
        if len(self) > 1:
            for pool in self:
                if not len(pool.queue):
                    self._fill(pool, now, commands)

    def _fill(self, idle: Pool, now: float, commands: list[Command]) -> None:
        """Lets a pool in which nobody waits run calls that wait elsewhere and may run anywhere."""
        busy = [pool for pool in self if len(pool.queue)]
        while busy and not len(idle.queue):
            models = sorted({worker.model for worker in idle.workers.with_room(now)})
            firsts = (pool.queue.first_unbound(model) for pool in busy for model in models)
            call = next((first for first in firsts if first is not None), None)
            if call is None:
                return
            self.move(call, idle, now)
            idle.assignment.enqueue(call)
            idle.assignment.dispatch(now, commands)
            busy = [pool for pool in busy if len(pool.queue)]


def _fullness(pool: Pool) -> tuple[float, str]:
    """How much waits and runs for each slot; ties by name, so that runs can be repeated."""
    slots = sum(worker.limit for worker in pool.workers if worker.ready and not worker.draining)
    return (len(pool.queue) + sum(worker.in_use for worker in pool.workers)) / max(1, slots), pool.name
