"""What workers report of the calls they were given: that they run, ended, came back, or are lost with their worker.

A worker that is lost gives its calls back to the queue, at their old place.
"""

from collections.abc import Mapping

from aios_proto.errors import AiosError, EngineFailed, SyscallCancelled, WorkerLost
from aios_scheduler.core.call import CallState, ModelCall, WorkerId
from aios_scheduler.core.chains import Chains
from aios_scheduler.core.commands import Adopt, CancelRun, CheckResult, Command
from aios_scheduler.core.endings import Endings
from aios_scheduler.core.events import ResultMade, RunEnded, RunReturned, WorkerSeen
from aios_scheduler.core.pool import Pool
from aios_scheduler.core.pools import Pools
from aios_scheduler.core.workers import Worker, WorkerTable

MAX_ATTEMPTS = 4
"""How many runs of a call may be lost or fail before it fails."""

RUN_GRACE_S = 2.0
"""A worker must report a call it was given within this time: four heartbeats. After that the `run` was lost."""

_OVERLOAD_PAUSE_S = 0.25


class Runs:
    """See the module.

    Args:
        calls: all open calls by their keys.
        pools: those that may run, and who runs where.
        workers: those that run them.
        chains: those that wait for others.
        endings: what becomes of a call that runs no more.
    """

    def __init__(
        self,
        calls: Mapping[str, ModelCall],
        pools: Pools,
        workers: WorkerTable,
        chains: Chains,
        endings: Endings,
    ) -> None:
        self._calls = calls
        self._pools = pools
        self._workers = workers
        self._chains = chains
        self._endings = endings

    def worker_seen(self, event: WorkerSeen, now: float, commands: list[Command]) -> None:
        """A worker said that it lives, and what it works on."""
        known = self._workers.get(event.worker)
        if known is not None and known.incarnation != event.incarnation:
            self.worker_lost(known, now, commands)
        worker, changed = self._workers.seen(event, now)
        assignment = self._pool_of(worker).assignment
        self.resize(worker)
        self._adopt(worker, now, commands)
        for key in sorted(worker.running & worker.reported):
            call = self._calls.get(key)
            if call is not None and call.cancelled:  # the first order to end it was lost
                commands.append(CancelRun(call, worker.id, "paused" if call.keep else "cancelled"))
        for key in sorted(worker.running - worker.reported):
            call = self._calls.get(key)
            if call is None:
                worker.give_up(key)
            elif now - call.dispatched > RUN_GRACE_S:
                worker.give_up(key)
                self._run_lost(call, now, commands)
        for key, tokens in event.running.items():
            call = self._calls.get(key)
            if call is not None and call.worker == worker.id:
                assignment.progressed(worker, call, tokens, now)
        assignment.slice(worker, now, commands)
        if changed:
            self._pools.workers_changed(now)

    def resize(self, worker: Worker) -> None:
        """What a worker may hold has changed, and with it the share of those on the same engine."""
        for each in self._workers.on_engine_of(worker):
            assignment = self._pool_of(each).assignment
            assignment.residency.resize(each.id, each.kv_tokens)
            assignment.residency.touch(each.id)
            assignment.stirred = True

    def worker_left(self, worker: WorkerId, incarnation: str, now: float, commands: list[Command]) -> None:
        """A worker said goodbye."""
        known = self._workers.get(worker)
        if known is not None and known.incarnation == incarnation:
            self.worker_lost(known, now, commands)

    def worker_lost(self, worker: Worker, now: float, commands: list[Command]) -> None:
        """A worker is gone: its calls go back to where they were."""
        self._workers.remove(worker.id)
        self._pool_of(worker).assignment.worker_gone(worker)
        self.resize(worker)
        for key in sorted(worker.running):
            call = self._calls.get(key)
            if call is not None:
                self._run_lost(call, now, commands)
        self._pools.workers_changed(now)

    def take_over(self, call: ModelCall, worker: Worker, now: float, commands: list[Command]) -> None:
        """A worker works already on a call that is known only now."""
        pool = self._pool_of(worker)
        self._pools.move(call, pool, now)
        pool.assignment.run_on(worker, call, now)
        call.attempt = 0
        commands.append(Adopt(call, worker.id))

    def result_made(self, event: ResultMade, now: float, commands: list[Command]) -> None:
        """A worker has told a caller the result: the calls that need it wait no longer."""
        call = self._calls.get(event.key)
        if call is not None and call.state is CallState.RUNNING and call.worker == event.worker:
            call.continued = self._chains.is_awaited(call.key)
            self._endings.release(call.key, now, commands, None)

    def run_ended(self, event: RunEnded, now: float, commands: list[Command]) -> None:
        """A worker has answered a call."""
        call = self._calls.get(event.key)
        if (known := self._workers.get(event.worker)) is not None:
            known.free(event.key)
            self._touch(known)
        if call is None or (call.state is CallState.RUNNING and call.worker != event.worker):
            return
        # Also when it was taken for lost and waits again: its caller has the answer.
        pool = self._pools.of(call)
        pool.queue.remove(call)
        if call.state is CallState.RUNNING:
            awaited = call.continued or self._chains.is_awaited(call.key)
            pool.assignment.ended(call, event, now, awaited=awaited)
            pool.assignment.slot_free(call)
        call.worker = event.worker
        self._endings.forget(call, now, commands, succeeded=event.succeeded)

    def run_returned(self, event: RunReturned, now: float, commands: list[Command]) -> None:
        """A worker gives a call back."""
        call = self._calls.get(event.key)
        worker = self._workers.get(event.worker)
        if worker is not None:
            if event.reason == "draining":
                worker.ready = False
                self._pools.workers_changed(now)
            elif event.reason in ("overloaded", "unavailable"):
                worker.paused_until = max(worker.paused_until, now + max(event.retry_after_s, _OVERLOAD_PAUSE_S))
        if call is None or call.state is not CallState.RUNNING or call.worker != event.worker:
            if worker is not None and event.key not in worker.running:
                worker.free(event.key)
                self._touch(worker)
            return
        if call.attempt not in (event.attempt, 0):
            return  # of an earlier run there; this one goes on
        call.attempt = event.attempt
        if worker is not None:
            worker.free(event.key)
        self._pools.of(call).assignment.leave(call, now)
        if event.reason == "failed":
            self._run_failed(call, EngineFailed(event.message or "the engine failed"), now, commands)
            return
        if event.reason == "preempted":
            call.made = max(call.made, event.tokens)
        self._requeue(call, now, commands)  # it never ran, or goes on where it was

    def result_checked(self, key: str, ended: bool, now: float, commands: list[Command]) -> None:
        """Answer to `CheckResult`."""
        call = self._calls.get(key)
        if call is None or call.state is not CallState.CHECKING:
            return
        if ended:
            self._endings.forget(call, now, commands, succeeded=True)
        else:
            self._run_failed(call, WorkerLost("the workers that ran this call were lost"), now, commands)

    def _adopt(self, worker: Worker, now: float, commands: list[Command]) -> None:
        """Takes over calls that wait here and run there: this scheduler was restarted, or lost the worker."""
        for key in sorted(worker.reported - worker.running):
            call = self._calls.get(key)
            if call is not None and call.state is CallState.QUEUED:
                self._pools.of(call).queue.remove(call)
                self.take_over(call, worker, now, commands)

    def _run_lost(self, call: ModelCall, now: float, commands: list[Command]) -> None:
        if call.state is not CallState.RUNNING:
            return
        self._pools.of(call).assignment.leave(call, now)
        if call.durable:
            call.state, call.worker = CallState.CHECKING, None
            commands.append(CheckResult(call))
        else:
            self._run_failed(call, WorkerLost("the workers that ran this call were lost"), now, commands)

    def _run_failed(self, call: ModelCall, failure: AiosError, now: float, commands: list[Command]) -> None:
        call.failures += 1
        if call.failures >= MAX_ATTEMPTS and not call.cancelled:
            self._endings.refuse(call, failure, now, commands)
        else:
            self._requeue(call, now, commands)

    def _requeue(self, call: ModelCall, now: float, commands: list[Command]) -> None:
        call.worker = None
        if call.cancelled:
            self._endings.refuse(call, SyscallCancelled("the call was cancelled"), now, commands)
        else:
            self._pools.enqueue(call, now)

    def _pool_of(self, worker: Worker) -> Pool:
        return self._pools.get(worker.id[0])

    def _touch(self, worker: Worker) -> None:
        """A slot of a worker is free: it is worth another look."""
        assignment = self._pool_of(worker).assignment
        assignment.residency.touch(worker.id)
        assignment.stirred = True
