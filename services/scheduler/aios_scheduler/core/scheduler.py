"""The scheduler's state machine: takes events in, lets each stage do its part, and returns what must be done.

Each pool decides for itself who runs next (`policies`) and where (`assignment`). Decided elsewhere: in which pool a
call waits (`pools`), how calls end (`endings`), what workers' reports mean (`runs`), what waits for what (`chains`).
"""

from aios_proto.errors import (
    AiosError,
    DeadlineUnmeetable,
    EngineFailed,
    SyscallCancelled,
)
from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.call import CallState, ModelCall, WorkerId
from aios_scheduler.core.chains import Chains
from aios_scheduler.core.commands import CancelRun, Command, Refuse
from aios_scheduler.core.configuration import Configuration, PoolConfiguration
from aios_scheduler.core.endings import Endings
from aios_scheduler.core.events import (
    Arrived,
    CancelAsked,
    EndKnown,
    Event,
    ResultChecked,
    ResultMade,
    RunEnded,
    RunReturned,
    Tick,
    WorkerLeft,
    WorkerSeen,
)
from aios_scheduler.core.explaining import Explaining
from aios_scheduler.core.pool import Pool
from aios_scheduler.core.pools import Pools
from aios_scheduler.core.runs import Runs
from aios_scheduler.core.workers import Worker, WorkerTable


class SchedulerCore:
    """Decides; see the package's docstring.

    Args:
        configuration: what holds in each pool, or in all of them.
    """

    def __init__(self, configuration: Configuration | PoolConfiguration) -> None:
        if isinstance(configuration, PoolConfiguration):
            configuration = Configuration(configuration)
        self.workers = WorkerTable()
        self.calls: dict[str, ModelCall] = {}
        self.pools = Pools(configuration, self.workers, self.calls)
        self.chains = Chains(self.calls, self.pools)
        self.endings = Endings(self.calls, self.pools, self.workers, self.chains)
        self.runs = Runs(self.calls, self.pools, self.workers, self.chains, self.endings)
        self.explaining = Explaining(self.pools, self.chains)
        self._hold_until = 0.0
        self._order = 0
        self._drained = False

    def on_event(self, event: Event, now: float) -> list[Command]:
        """Takes one event in and returns what must be done about it, in order.

        Args:
            event: what happened.
            now: Unix time in seconds.
        """
        commands: list[Command] = []
        self.take_in(event, now, commands)
        return commands

    def take_in(self, event: Event, now: float, commands: list[Command]) -> None:
        """As `on_event`, and adds to `commands`, which so has what was decided even where this fails."""
        match event:
            case Arrived(call, recovered):
                self._arrived(call, recovered, now, commands)
            case CancelAsked(key, keep):
                self._cancel(key, keep, now, commands)
            case WorkerSeen():
                self.runs.worker_seen(event, now, commands)
            case WorkerLeft(worker_id, incarnation):
                self.runs.worker_left(worker_id, incarnation, now, commands)
            case ResultMade():
                self.runs.result_made(event, now, commands)
            case RunEnded():
                self.runs.run_ended(event, now, commands)
            case RunReturned():
                self.runs.run_returned(event, now, commands)
            case ResultChecked(key, ended):
                self.runs.result_checked(key, ended, now, commands)
            case EndKnown(key, succeeded):
                if key not in self.calls:
                    failure = None if succeeded else EngineFailed("it ended with an error")
                    self.endings.release(key, now, commands, failure)
            case Tick():
                self._look_again(now)
        self.endings.expire(now, commands)
        for worker in self.workers.silent(now):
            self.runs.worker_lost(worker, now, commands)
        for call, unknown in self.chains.give_up(now):
            self.endings.refuse(call, unknown, now, commands)
        for pool in self.pools:
            pool.assignment.end_programs(now)
        if now >= self._hold_until:
            self.pools.dispatch(now, commands)

    def next_wake(self, now: float) -> float | None:
        """When something happens by the passing of time alone (Unix seconds); None: never."""
        deadline = self.endings.next_deadline()
        times = [] if deadline is None else [deadline]
        silence = self.workers.next_silence()
        if silence is not None:
            times.append(silence)
        for pool in self.pools:
            if len(pool.queue):
                times += pool.next_wakes(now)
        if self._hold_until > now and self.pools.queued():
            times.append(self._hold_until)
        give_up = self.chains.next_giving_up()
        if give_up is not None:
            times.append(give_up)
        return min(times, default=None)

    def hold_until(self, time: float) -> None:
        """Dispatches nothing before `time` (Unix seconds): a scheduler that starts first hears what runs already."""
        self._hold_until = time

    def configure(self, configuration: Configuration) -> None:
        """Decides by this from now on; no call is lost.

        Raises:
            InvalidRequest: there is no policy of a name.
        """
        self.pools.configure(configuration)

    def drain(self, worker: WorkerId, *, drain: bool) -> Worker | None:
        """Gives a worker no new calls, or some again, from the next event on; None if there is no such worker."""
        known = self.workers.get(worker)
        if known is not None:
            self.workers.drain(known, drain=drain)
            self.runs.resize(known)
            self._drained = True
        return known

    def policy_of(self, call: ModelCall) -> PolicyName:
        """Name of the policy by which a call is ordered."""
        return self.pools.configuration.of(call.pool).policy

    def calls_of(self, tenant: str, agent: str) -> list[ModelCall]:
        """An agent's open calls, the oldest first."""
        return sorted(
            (call for call in self.calls.values() if call.tenant == tenant and call.agent == agent),
            key=lambda call: call.order,
        )

    def _arrived(self, call: ModelCall, recovered: bool, now: float, commands: list[Command]) -> None:
        if call.key in self.calls:
            return
        self._order += 1
        call.order = self._order
        running_on = self.workers.reporting(call.key) if recovered else None
        missing: list[str] = []
        try:
            if not recovered and now >= self._hold_until:
                self.pools.check(call, now)
            pool = self.pools.get(running_on.id[0]) if running_on is not None else self.pools.choose(call)
            call.pool = pool.name
            if not recovered:
                self.pools.check_room(call)
            if running_on is None:
                missing = self.chains.missing(call)
            pool.estimate(call)
            if call.has_deadline and not recovered:
                _check_deadline(pool, call, now)
        except AiosError as error:
            self.pools.refused(call)
            commands.append(Refuse(call, error))
            self.endings.release(call.key, now, commands, error)
            return
        self.calls[call.key] = call
        pool.take_in(call, now)
        self.endings.watch(call, call.deadline)
        if running_on is not None:
            self.runs.take_over(call, running_on, now, commands)
        elif missing:
            self.chains.hold(call, missing, now)
        else:
            self.pools.enqueue(call, now)

    def _look_again(self, now: float) -> None:
        """Time has passed, or an operator has spoken."""
        for pool in self.pools:
            pool.assignment.look_again()
        if self._drained:
            self._drained = False
            self.pools.workers_changed(now)
        self.pools.forget_unused(now)

    def _cancel(self, key: str, keep: bool, now: float, commands: list[Command]) -> None:
        call = self.calls.get(key)
        if call is None:
            return
        call.cancelled, call.keep = True, keep
        if call.state in (CallState.QUEUED, CallState.HELD):
            self.endings.refuse(call, SyscallCancelled("the call was cancelled while it waited"), now, commands)
        elif call.state is CallState.RUNNING and call.worker is not None:
            commands.append(CancelRun(call, call.worker, "paused" if keep else "cancelled"))


def _check_deadline(pool: Pool, call: ModelCall, now: float) -> None:
    if not pool.queue.policy.overrides_deadlines:
        return
    if not pool.assignment.deadlines.can_meet(call, now):
        left = call.deadline - now
        raise DeadlineUnmeetable(f"the deadline in {left:.1f} s cannot be met with the work promised before it")
    pool.assignment.promise(call)
