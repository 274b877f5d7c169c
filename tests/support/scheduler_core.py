"""A scheduler core on a clock the test moves: calls, workers and what came of them, in a line each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from aios_proto.messages.scheduler import PolicyName, QueueLimits
from aios_scheduler.core import SchedulerCore
from aios_scheduler.core.call import CallState, ModelCall, WorkerId
from aios_scheduler.core.commands import CancelRun, Command, Dispatch, Forget, Refuse
from aios_scheduler.core.configuration import DEFAULT_POOL, Configuration, PoolConfiguration
from aios_scheduler.core.events import Arrived, CancelAsked, Event, RunEnded, RunReturned, Tick, WorkerLeft, WorkerSeen
from aios_scheduler.core.pool import Pool

C = TypeVar("C")
START = 1_000_000.0


@dataclass
class CoreBench:
    """A core with its clock. Every event's commands are kept in `log`; `pending` are those since the last `take`."""

    policy: PolicyName = "priority"
    per_tenant: int = 1000
    per_pool: int = 10_000
    now: float = START
    log: list[Command] = field(default_factory=list)
    pending: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.core = SchedulerCore(
            PoolConfiguration(self.policy, QueueLimits(per_tenant=self.per_tenant, per_pool=self.per_pool))
        )
        self._hellos: dict[str, WorkerSeen] = {}

    @property
    def pool(self) -> Pool:
        """The pool most tests are about."""
        return self.core.pools.get(DEFAULT_POOL)

    def configure(self, **changes: object) -> None:
        """Another configuration for all pools, from now on."""
        self.core.configure(Configuration(replace(self.core.pools.configuration.default, **changes)))  # type: ignore[arg-type]

    def feed(self, event: Event) -> list[Command]:
        commands = self.core.on_event(event, self.now)
        wake = self.core.next_wake(self.now)
        assert wake is None or wake > self.now, f"{type(event).__name__} leaves a wake-up in the past: a busy loop"
        self.log += commands
        self.pending += commands
        return commands

    def take(self, kind: type[C]) -> list[C]:
        """The commands of one kind since the last time; the others are let go."""
        found: list[C] = [command for command in self.pending if isinstance(command, kind)]
        self.pending.clear()
        return found

    def call(
        self,
        name: str,
        *,
        tenant: str = "acme",
        model: str | None = None,
        priority: int = 5,
        deadline_s: float = 60,
        durable: bool = True,
        size_bytes: int = 100,
        recovered: bool = False,
        pool: str | None = None,
        program: str = "program",
        budget_tokens: int | None = None,
        after: tuple[str, ...] = (),
    ) -> ModelCall:
        """A call arrives."""
        call = ModelCall(
            key=f"{tenant}.agent.{name}",
            id=name,
            tenant=tenant,
            agent="agent",
            program=program,
            operation="chat",
            model=model,
            priority=priority,
            deadline=self.now + deadline_s,
            arrived=self.now,
            durable=durable,
            size_bytes=size_bytes,
            pool=pool or DEFAULT_POOL,
            bound=pool is not None,
            budget_tokens=budget_tokens,
            after=tuple(f"{tenant}.agent.{other}" for other in after),
        )
        self.feed(Arrived(call, recovered))
        return call

    def worker(
        self,
        name: str = "w1",
        *,
        model: str = "llama",
        limit: int = 1,
        ready: bool = True,
        running: Mapping[str, int] | None = None,
        incarnation: str = "first",
        pool: str = DEFAULT_POOL,
        kv_tokens: int | None = None,
        can_preempt: bool = False,
        engine: str = "",
    ) -> WorkerId:
        """A worker says hello for the first time, or as another incarnation."""
        hello = WorkerSeen((pool, name), incarnation, model, limit, ready, dict(running or {}))
        hello = replace(hello, kv_tokens=kv_tokens, can_preempt=can_preempt, engine=engine)
        self._hellos[name] = hello
        self.feed(hello)
        return hello.worker

    def hello(self, name: str = "w1", *, running: Mapping[str, int] | None = None, ready: bool | None = None) -> None:
        """A heartbeat; without `running` it reports exactly what the core thinks it runs."""
        before = self._hellos[name]
        if running is None:
            known = self.core.workers.get(before.worker)
            running = dict.fromkeys(known.running if known else (), 1)
        self._hellos[name] = replace(before, running=dict(running), ready=before.ready if ready is None else ready)
        self.feed(self._hellos[name])

    def goodbye(self, name: str = "w1") -> None:
        self.feed(WorkerLeft(self._hellos[name].worker, self._hellos[name].incarnation))

    def ended(self, call: ModelCall, name: str = "w1") -> None:
        self.feed(RunEnded(call.key, self._hellos[name].worker))

    def returned(self, command: Dispatch, reason: str = "overloaded", retry_after_s: float = 0.0) -> None:
        self.feed(
            RunReturned(command.call.key, command.worker, command.attempt, reason, "told so", retry_after_s)  # type: ignore[arg-type]
        )

    def cancel(self, call: ModelCall, *, keep: bool = False) -> None:
        self.feed(CancelAsked(call.key, keep))

    def pass_time(self, seconds: float, *, beating: tuple[str, ...] = ("w1",)) -> None:
        """Lets time pass as the shell does: the core is woken when it asks to be, workers beat twice a second."""
        end = self.now + seconds
        beat = self.now + 0.5
        while True:
            wake = self.core.next_wake(self.now)
            if min(wake or end, beat) >= end:
                break
            if wake is not None and wake <= beat:
                self.now = wake
                self.feed(Tick())
            else:
                self.now, beat = beat, beat + 0.5
                for name in beating:
                    if name in self._hellos:
                        self.hello(name)
        self.now = end
        self.feed(Tick())

    def state(self, call: ModelCall) -> CallState | None:
        """Where the call is; None once it has ended."""
        return call.state if call.key in self.core.calls else None

    def names(self, kind: type[Dispatch] | type[Forget] | type[CancelRun]) -> list[str]:
        """Ids of the calls of all commands of one kind so far."""
        return [command.call.id for command in self.log if isinstance(command, kind)]

    def refusals(self) -> dict[str, str]:
        """Error codes of the refused calls by id."""
        return {command.call.id: command.error.code for command in self.log if isinstance(command, Refuse)}

    def wait_for(self, condition: Callable[[], bool], seconds: float, step_s: float = 0.5) -> None:
        """Lets time pass until the condition holds."""
        end = self.now + seconds
        while not condition():
            assert self.now < end, "did not happen in time"
            self.pass_time(step_s)
