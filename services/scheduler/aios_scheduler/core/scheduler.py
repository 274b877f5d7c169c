"""The scheduler's state machine: takes events in, lets each stage do its part, and returns what must be done.

Decided elsewhere: how calls end (`endings`), what workers' reports mean (`runs`), who runs where (`assignment`), in
what order (`policies`), what waits for what (`chains`).
"""

from collections.abc import Mapping

from aios_proto.errors import (
    AiosError,
    DeadlineUnmeetable,
    EngineFailed,
    ModelUnknown,
    SyscallCancelled,
)
from aios_proto.messages.scheduler import PolicyName, QueueLimits
from aios_scheduler.core.accounting import Accounts
from aios_scheduler.core.assignment import Assignment
from aios_scheduler.core.call import CallState, ModelCall, WorkerId
from aios_scheduler.core.chains import Chains
from aios_scheduler.core.commands import CancelRun, Command, Refuse
from aios_scheduler.core.endings import Endings
from aios_scheduler.core.events import (
    Arrived,
    CancelAsked,
    EndKnown,
    Event,
    ResultChecked,
    RunEnded,
    RunReturned,
    Tick,
    WorkerLeft,
    WorkerSeen,
)
from aios_scheduler.core.explaining import Explaining
from aios_scheduler.core.isolation import Isolation
from aios_scheduler.core.learnt import Learnt
from aios_scheduler.core.policies import make_policy
from aios_scheduler.core.queue import CallQueue
from aios_scheduler.core.runs import Runs
from aios_scheduler.core.workers import Worker, WorkerTable


class SchedulerCore:
    """Decides; see the package's docstring.

    Args:
        policy: name of the ordering policy to start with.
        limits: bounds of the queue.
        weights: of tenants, 1 where none is given.
        flood_share: see `isolation`; None sets no bound.
    """

    def __init__(
        self,
        policy: PolicyName,
        limits: QueueLimits,
        weights: Mapping[str, float] | None = None,
        *,
        flood_share: float | None = None,
    ) -> None:
        self.accounts = Accounts(weights or {})
        self.learnt = Learnt()
        self.queue = CallQueue(make_policy(policy, self.accounts, self.learnt), limits)
        self.workers = WorkerTable()
        self.calls: dict[str, ModelCall] = {}
        isolation = Isolation(lambda tenant: self.accounts.tenant(tenant).weight, flood_share)
        self.assignment = Assignment(self.queue, self.workers, self.calls, self.accounts, self.learnt, isolation)
        self.chains = Chains(self.calls, self.queue, self.assignment)
        self.endings = Endings(self.calls, self.queue, self.workers, self.chains, self.assignment, self.accounts)
        self.runs = Runs(self.calls, self.queue, self.workers, self.chains, self.assignment, self.endings)
        self.explaining = Explaining(self.assignment, self.chains)
        self._hold_until = 0.0
        self._order = 0

    def on_event(self, event: Event, now: float) -> list[Command]:
        """Takes one event in and returns what must be done about it, in order.

        Args:
            event: what happened.
            now: Unix time in seconds.
        """
        commands: list[Command] = []
        match event:
            case Arrived(call, recovered):
                self._arrived(call, recovered, now, commands)
            case CancelAsked(key, keep):
                self._cancel(key, keep, now, commands)
            case WorkerSeen():
                self.runs.worker_seen(event, now, commands)
            case WorkerLeft(worker_id, incarnation):
                self.runs.worker_left(worker_id, incarnation, now, commands)
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
                self.assignment.look_again()
        self.endings.expire(now, commands)
        for worker in self.workers.silent(now):
            self.runs.worker_lost(worker, now, commands)
        for call, unknown in self.chains.give_up(now):
            self.endings.refuse(call, unknown, now, commands)
        self.assignment.end_programs(now)
        if now >= self._hold_until:
            self.assignment.dispatch(now, commands)
        return commands

    def next_wake(self, now: float) -> float | None:
        """When something happens by the passing of time alone (Unix seconds); None: never."""
        deadline = self.endings.next_deadline()
        times = [] if deadline is None else [deadline]
        silence = self.workers.next_silence()
        if silence is not None:
            times.append(silence)
        if len(self.queue):
            times += [worker.paused_until for worker in self.workers if worker.paused_until > now]
            if self._hold_until > now:
                times.append(self._hold_until)
            urgent = self.queue.next_urgent()
            if urgent is not None and urgent > now:
                times.append(urgent)
            expiry = self.assignment.residency.next_expiry(now)
            if expiry is not None:
                times.append(expiry)
        give_up = self.chains.next_giving_up()
        if give_up is not None:
            times.append(give_up)
        return min(times, default=None)

    def hold_until(self, time: float) -> None:
        """Dispatches nothing before `time` (Unix seconds): a scheduler that starts first hears what runs already."""
        self._hold_until = time

    def use_policy(self, name: PolicyName) -> PolicyName:
        """Orders the queue by another policy from now on; returns the one before.

        Raises:
            InvalidRequest: there is none of that name.
        """
        before = self.queue.policy.name
        self.queue.use(make_policy(name, self.accounts, self.learnt))
        self.assignment.look_again()
        return before

    def use_weights(self, weights: Mapping[str, float]) -> None:
        """Serves tenants by these weights from now on; 1 where none is given."""
        self.accounts.use_weights(weights)
        self.use_flood_share(self.assignment.isolation.share)
        self.use_policy(self.queue.policy.name)

    def use_flood_share(self, share: float | None) -> None:
        """Holds tenants that flood to so much from now on; see `isolation`."""
        self.assignment.isolation.use(share, self.calls.values())
        self.assignment.look_again()

    def drain(self, worker: WorkerId, *, drain: bool) -> Worker | None:
        """Gives a worker no new calls, or some again; None if there is no such worker."""
        known = self.workers.get(worker)
        if known is not None:
            known.draining = drain
        return known

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
            if not recovered:
                self._check_model(call, now)
                self.queue.check_room(call, self.endings.retry_after_s())
            if running_on is None:
                missing = self.chains.missing(call)
            self._estimate(call)
            if call.has_deadline and not recovered:
                self._check_deadline(call, now)
        except AiosError as error:
            self.accounts.refused(call)
            commands.append(Refuse(call, error))
            self.endings.release(call.key, now, commands, error)
            return
        self.calls[call.key] = call
        self.accounts.opened(call)
        self.assignment.came_back(call)
        self.assignment.isolation.asked(call.tenant, call.work, now)
        self.endings.watch(call, call.deadline)
        if running_on is not None:
            self.runs.take_over(call, running_on, now, commands)
        elif missing:
            self.chains.hold(call, missing, now)
        else:
            self.assignment.enqueue(call)

    def _estimate(self, call: ModelCall) -> None:
        call.step = self.accounts.program(call).calls
        call.prompt_tokens = self.learnt.prompt_tokens(call)
        call.expected_output = self.learnt.expected_output(call)
        call.path_work = call.work
        call.needs = self.assignment.needs(call)
        if call.has_deadline:
            call.latest_start = self.assignment.deadlines.latest_start(call)

    def _check_deadline(self, call: ModelCall, now: float) -> None:
        if not self.queue.policy.overrides_deadlines:
            return
        if not self.assignment.deadlines.can_meet(call, now):
            left = call.deadline - now
            raise DeadlineUnmeetable(f"the deadline in {left:.1f} s cannot be met with the work promised before it")
        self.assignment.promise(call)

    def _check_model(self, call: ModelCall, now: float) -> None:
        if call.model is not None and now >= self._hold_until and self.workers.is_unknown(call.model, now):
            raise ModelUnknown(f"no worker serves a model {call.model!r}", field="model")

    def _cancel(self, key: str, keep: bool, now: float, commands: list[Command]) -> None:
        call = self.calls.get(key)
        if call is None:
            return
        call.cancelled, call.keep = True, keep
        if call.state in (CallState.QUEUED, CallState.HELD):
            self.endings.refuse(call, SyscallCancelled("the call was cancelled while it waited"), now, commands)
        elif call.state is CallState.RUNNING and call.worker is not None:
            commands.append(CancelRun(call, call.worker, "paused" if keep else "cancelled"))
