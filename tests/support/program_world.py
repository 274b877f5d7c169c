"""The scheduler's world with programs: calls share contexts, wait for each other, and must fit the workers' memory."""

from dataclasses import replace

from support.scheduler_world import Faults, SimWorker, World

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.call import CallState, ModelCall
from aios_scheduler.core.commands import Command, Dispatch
from aios_scheduler.core.events import Arrived, Event, ResultMade, RunEnded, WorkerSeen

KV_TOKENS = 6000
MAX_TOKENS = 400
LARGEST_PROMPT = 2500


class ProgramWorld(World):
    """Checks memory and slots instead of a fixed order, because the order is what the policies differ in."""

    def __init__(self, seed: int, faults: Faults, policy: PolicyName) -> None:
        super().__init__(seed, faults, policy=policy)
        self._shapes: dict[str, tuple[str, int, tuple[str, ...]]] = {}
        self._told: set[str] = set()

    def feed(self, event: Event) -> None:
        match event:
            case Arrived(call, _):
                program, size, after = self._shape(call)
                call.program, call.size_bytes, call.after, call.max_tokens = program, size, after, MAX_TOKENS
                call.has_deadline = call.priority % 2 == 0
            case WorkerSeen():
                event = self._worker_seen(event)
            case RunEnded(key, _):
                shape = self._shapes.get(key)
                if shape is not None:
                    event = replace(event, prompt_tokens=shape[1] // 4, completion_tokens=50, tool="look")
        super().feed(event)

    def _finish(self, worker: SimWorker, incarnation: int, key: str, broke: bool) -> None:
        """Half of the results are told before the call ends; the worker may die between the two."""
        runs = worker.incarnation == incarnation and key in worker.runs
        if broke or not runs or self.now >= self.calls[key].deadline or self.random.random() < 0.5:
            super()._finish(worker, incarnation, key, broke)
            return
        self._told.add(key)
        self._report(worker, ResultMade(key, worker.id))
        self._at(
            self.random.choice((0.01, 0.3)), lambda: super(ProgramWorld, self)._finish(worker, incarnation, key, broke)
        )

    def _worker_seen(self, event: WorkerSeen) -> WorkerSeen:
        return replace(event, kv_tokens=KV_TOKENS, can_preempt=False)

    def _shape(self, call: ModelCall) -> tuple[str, int, tuple[str, ...]]:
        if call.key not in self._shapes:
            earlier = [key for key in self._shapes if key.startswith(f"{call.tenant}.")]
            after = (self.random.choice(earlier),) if earlier and self.random.random() < 0.15 else ()
            size = 4 * self.random.randint(20, LARGEST_PROMPT)
            self._shapes[call.key] = (f"p{self.random.randint(0, 4)}", size, after)
        return self._shapes[call.key]

    def check(self, commands: list[Command]) -> None:
        core = self.core
        for command in commands:
            if isinstance(command, Dispatch):
                worker = core.workers.get(command.worker)
                assert worker is not None, "given to a worker that is gone"
                assert worker.in_use <= worker.limit, f"{worker.id} has {worker.in_use} of {worker.limit} slots in use"
                assert command.call.model in (None, worker.model), "given to a worker with another model"
                open_ = [key for key in command.call.after if key in core.calls and key not in self._told]
                assert not open_, f"{command.call.key} was started before {open_} had a result"
        running = {key for worker in core.workers for key in worker.running}
        for call in core.calls.values():
            if call.state is CallState.RUNNING:
                assert call.worker is not None
                known = core.workers.get(call.worker)
                assert known is not None, f"{call.key} runs nowhere"
                assert call.key in known.running, f"{call.key} runs nowhere"
            elif call.state is CallState.QUEUED:
                assert call in core.pools.of(call).queue, f"{call.key} is forgotten"
        assert running <= core.calls.keys(), f"slots held by ended calls: {running - core.calls.keys()}"
        self._check_memory()

    def _check_memory(self) -> None:
        core = self.core
        for worker, house in [each for pool in core.pools for each in pool.assignment.residency.houses.items()]:
            residents = house.residents.values()
            assert house.used == sum(resident.tokens for resident in residents), "memory is miscounted"
            assert house.reserved == sum(resident.running_tokens for resident in residents), "reserves are miscounted"
            mine = [call for call in core.calls.values() if call.worker == worker and call.reserved]
            assert house.reserved == sum(call.reserved for call in mine), f"{worker} keeps memory for nobody"
            assert all(resident.running or resident.context_tokens for resident in residents), "a place for nothing"
