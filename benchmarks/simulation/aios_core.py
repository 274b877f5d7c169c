"""The scheduler's own core as a strategy: the object the service runs, fed with the events a worker would send."""

from aios_proto.kernel import WORKER_INTERVAL_S
from aios_proto.messages.scheduler import PolicyName, QueueLimits
from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.commands import CancelRun, Command, Dispatch, Preempt, Refuse
from aios_scheduler.core.configuration import PoolConfiguration
from aios_scheduler.core.events import Arrived, Event, RunEnded, RunReturned, Tick, WorkerSeen
from simulation.model import Drop, Fleet, Order, SimCall, Start, Stop

POOL = "default"
DEFAULT_DEADLINE_S = 36_000.0
SLOTS = 512


class AiosCore:
    """Events in, commands out, on the virtual clock.

    Args:
        fleet: the engines.
        policy: name of the policy.
        can_preempt: whether the workers say that they can stop a call and go on with it.
        kv_share: share of the engines' KV cache that the core is told of.
        flood_share: what a flooding tenant may have running, over what each other has; None sets no bound.
    """

    def __init__(
        self,
        fleet: Fleet,
        policy: PolicyName = "aios",
        *,
        can_preempt: bool = False,
        kv_share: float = 1.0,
        flood_share: float | None = None,
    ) -> None:
        self.submits_graphs = policy == "aios"
        limits = QueueLimits(per_tenant=1_000_000, per_pool=1_000_000)
        self.core = SchedulerCore(PoolConfiguration(policy, limits, flood_share=flood_share))
        self._fleet = fleet
        self._can_preempt = can_preempt
        self._kv_share = kv_share
        self._calls: dict[str, SimCall] = {}
        self._running: list[dict[str, SimCall]] = [{} for _ in fleet.engines]
        self._heartbeat = 0.0
        self._hello(0.0)

    def arrived(self, call: SimCall, now: float) -> list[Order]:
        spec, program = call.spec, call.program
        self._calls[call.key] = call
        prefix = f"{program.tenant}.{program.agent}.{program.name}-"
        model_call = ModelCall(
            key=call.key,
            id=f"{program.name}-{spec.index}",
            tenant=program.tenant,
            agent=program.agent,
            program=program.name,
            operation="chat",
            model=None,
            priority=spec.priority,
            deadline=now + (DEFAULT_DEADLINE_S if spec.deadline_s is None else spec.deadline_s),
            arrived=now,
            durable=True,
            size_bytes=call.size_bytes,
            has_deadline=spec.deadline_s is not None,
            max_tokens=spec.max_tokens,
            after=tuple(f"{prefix}{index}" for index in spec.after) if self.submits_graphs and not spec.gap_s else (),
        )
        return self._feed(Arrived(model_call), now)

    def first_token(self, call: SimCall, now: float) -> list[Order]:
        return []

    def ended(self, call: SimCall, now: float) -> list[Order]:
        assert call.worker is not None
        self._running[call.worker].pop(call.key, None)
        del self._calls[call.key]
        spec = call.spec
        event = RunEnded(
            call.key,
            (POOL, f"w{call.worker}"),
            prompt_tokens=spec.prompt_tokens,
            completion_tokens=spec.output_tokens,
            cached_tokens=call.cached_tokens,
            tool=spec.tool,
        )
        return self._feed(event, now)

    def stopped(self, call: SimCall, now: float) -> list[Order]:
        known = self.core.calls[call.key]
        assert known.worker is not None
        self._running[int(known.worker[1][1:])].pop(call.key, None)
        return self._feed(RunReturned(call.key, known.worker, known.attempt, "preempted", tokens=call.made), now)

    def tick(self, now: float) -> list[Order]:
        if now >= self._heartbeat:
            return self._hello(now)
        return self._feed(Tick(), now)

    def next_wake(self, now: float) -> float | None:
        wake = self.core.next_wake(now)
        return self._heartbeat if wake is None else min(wake, self._heartbeat)

    def _hello(self, now: float) -> list[Order]:
        self._heartbeat = now + WORKER_INTERVAL_S
        orders: list[Order] = []
        for number, engine in enumerate(self._fleet.engines):
            running = {key: call.made + self._fleet.tokens_of(call) for key, call in self._running[number].items()}
            hello = WorkerSeen(
                (POOL, f"w{number}"),
                "1",
                "model",
                SLOTS,
                ready=True,
                running=running,
                kv_tokens=int(engine.kv_tokens * self._kv_share),
                can_preempt=self._can_preempt,
            )
            orders += self._feed(hello, now)
        return orders

    def _feed(self, event: Event, now: float) -> list[Order]:
        orders: list[Order] = []
        for command in self.core.on_event(event, now):
            if isinstance(command, CancelRun):
                call = self._calls.pop(command.call.key)
                self._running[int(command.worker[1][1:])].pop(call.key, None)
                orders.append(Drop(call))
                orders += self._feed(RunEnded(call.key, command.worker, succeeded=False), now)
            elif (order := self._order(command)) is not None:
                orders.append(order)
        return orders

    def _order(self, command: Command) -> Order | None:
        match command:
            case Dispatch(known, worker):
                call = self._calls[known.key]
                number = int(worker[1][1:])
                self._running[number][call.key] = call
                call.worker = number
                return Start(call, number)
            case Preempt(known, _):
                return Stop(self._calls[known.key])
            case Refuse(known, _):
                return Drop(self._calls.pop(known.key))
            case _:
                return None
