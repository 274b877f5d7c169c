"""The scheduler's world with several pools, whose configuration an operator changes while calls wait."""

from dataclasses import replace

from support.program_world import ProgramWorld
from support.scheduler_world import ARRIVALS_S, Faults, SimWorker

from aios_proto.messages.scheduler import PolicyName, QueueLimits
from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.call import CallState, ModelCall
from aios_scheduler.core.commands import Command, Dispatch
from aios_scheduler.core.configuration import Configuration, PoolConfiguration
from aios_scheduler.core.events import Arrived, Event, Tick, WorkerSeen

POOLS = ("default", "batch", "fast")
POLICIES: tuple[PolicyName, ...] = ("aios", "las", "fair", "rr", "edf", "fifo", "priority")


class PoolWorld(ProgramWorld):
    """Some calls name a pool and may run there alone; the others run wherever there is room.

    Args:
        seed: of everything random.
        faults: how unkind the world is.
        bounded_memory: whether the workers say how much their caches hold; only without is idleness a fault.
    """

    def __init__(self, seed: int, faults: Faults, *, bounded_memory: bool) -> None:
        self._bounded_memory = bounded_memory
        self._named: dict[str, str | None] = {}
        super().__init__(seed, faults, "aios")
        for _ in range(6):
            self._at(self.random.uniform(0, ARRIVALS_S), self._operate)

    def _make_workers(self) -> list[SimWorker]:
        workers = super()._make_workers()
        for worker in workers:
            worker.id = (self.random.choice(POOLS), worker.id[1])
        return workers

    def _new_core(self) -> SchedulerCore:
        return SchedulerCore(self._configuration())

    def _configuration(self) -> Configuration:
        def one() -> PoolConfiguration:
            weights = {f"t{number}": self.random.choice((0.5, 1.0, 4.0)) for number in range(3)}
            share = self.random.choice((None, None, 1.0))
            limits = QueueLimits(per_tenant=self.random.randint(5, 100), per_pool=self.random.randint(10, 100))
            return PoolConfiguration(self.random.choice(POLICIES), limits, weights, share)

        return Configuration(one(), {pool: one() for pool in POOLS if self.random.random() < 0.5})

    def _operate(self) -> None:
        if self.scheduler_up:
            self.core.configure(self._configuration())
            self.feed(Tick())

    def feed(self, event: Event) -> None:
        match event:
            case Arrived(call, _):
                pool = self._pool_of(call)
                if pool is not None:
                    call.pool, call.bound = pool, True
        super().feed(event)

    def _worker_seen(self, event: WorkerSeen) -> WorkerSeen:
        seen = super()._worker_seen(event)
        return seen if self._bounded_memory else replace(seen, kv_tokens=None)

    def _pool_of(self, call: ModelCall) -> str | None:
        if call.key not in self._named:
            pools = sorted({worker.id[0] for worker in self.workers})
            self._named[call.key] = self.random.choice((None, None, *pools, *(["nowhere"] * (len(pools) == 3))))
        return self._named[call.key]

    def check(self, commands: list[Command]) -> None:
        super().check(commands)
        core = self.core
        for command in commands:
            if isinstance(command, Dispatch):
                named = self._named.get(command.call.key)
                assert named in (None, command.worker[0]), f"{command.call.key} may run in {named} alone"
                assert command.call.pool == command.worker[0], "counted in another pool than it runs in"
        for pool in core.pools:
            mine = [call for call in core.calls.values() if call.pool == pool.name]
            assert pool.open_calls == len(mine), f"pool {pool.name} counts {pool.open_calls} of {len(mine)} calls"
            assert all(call in mine for call in pool.queue), f"a call waits in {pool.name} that is not there"
            assert pool.queue.size_bytes == sum(call.size_bytes for call in pool.queue)
        if not self._bounded_memory:
            self._check_idleness()

    def _check_idleness(self) -> None:
        core = self.core
        if self.now < core._hold_until:
            return
        for pool in core.pools:
            if len(pool.queue) or pool.configuration.flood_share is not None:
                continue
            for worker in pool.workers.with_room(self.now):
                for call in core.calls.values():
                    if call.state is CallState.QUEUED and not call.bound and worker.serves(call.model):
                        held = core.pools.of(call).configuration.flood_share is not None
                        at_home = core.pools.of(call).assignment.residency.homes(call.program_id)
                        assert held or at_home, f"{call.key} waits in {call.pool}, {worker.id} is idle"
