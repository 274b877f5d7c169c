"""How calls end: refused here, answered by their worker, or overtaken by their deadline; and what that sets free.

Every call that arrives leaves by exactly one of two ways: `Refuse` (the scheduler answers) or `Forget` (a worker has
answered).
"""

import heapq

from aios_proto.errors import AiosError, DeadlineExceeded, EngineFailed
from aios_scheduler.core.accounting import Accounts
from aios_scheduler.core.assignment import Assignment
from aios_scheduler.core.call import CallState, ModelCall
from aios_scheduler.core.chains import Chains
from aios_scheduler.core.commands import CancelRun, Command, Forget, Refuse
from aios_scheduler.core.queue import CallQueue
from aios_scheduler.core.workers import WorkerTable

DEADLINE_GRACE_S = 1.0
"""The worker ends its calls at their deadline itself; the scheduler tells it to this much later."""

DEADLINE_LIMIT_S = 3.0
"""So long after its deadline a call that no worker has ended is ended by the scheduler."""

_RETRY_AFTER_BOUNDS_S = (0.5, 30.0)
_COMPACT_ABOVE = 1000


class Endings:
    """See the module.

    Args:
        calls: all open calls by their keys; those that end are taken out.
        queue: those that may run.
        workers: those that run them.
        chains: those that wait for others.
        assignment: puts what is free now into the queue.
        accounts: programs and tenants.
    """

    def __init__(
        self,
        calls: dict[str, ModelCall],
        queue: CallQueue,
        workers: WorkerTable,
        chains: Chains,
        assignment: Assignment,
        accounts: Accounts,
    ) -> None:
        self._calls = calls
        self._queue = queue
        self._workers = workers
        self._chains = chains
        self._assignment = assignment
        self._accounts = accounts
        self._watched: list[tuple[float, int, str]] = []
        self._seconds_per_call = 1.0
        self._last_end: float | None = None

    def next_deadline(self) -> float | None:
        """When the next call must be looked at (Unix seconds)."""
        return self._watched[0][0] if self._watched else None

    def retry_after_s(self) -> float:
        """When a caller may try again for whom there is no room: when about half of those waiting have ended."""
        low, high = _RETRY_AFTER_BOUNDS_S
        return round(min(high, max(low, self._seconds_per_call * len(self._queue) / 2)), 1)

    def watch(self, call: ModelCall, time: float) -> None:
        """Looks at an open call again at that time (Unix seconds)."""
        heapq.heappush(self._watched, (time, call.order, call.key))
        if len(self._watched) > 2 * len(self._calls) + _COMPACT_ABOVE:
            self._watched = [entry for entry in self._watched if self._is_open(entry[2], entry[1])]
            heapq.heapify(self._watched)

    def expire(self, now: float, commands: list[Command]) -> None:
        """Ends calls whose deadline has passed: those that wait at once, those that run if their worker does not."""
        while self._watched and self._watched[0][0] <= now:
            _, order, key = heapq.heappop(self._watched)
            if not self._is_open(key, order):
                continue
            call = self._calls[key]
            if call.state in (CallState.QUEUED, CallState.HELD):
                waited = f"the call waited {now - call.arrived:.1f} s and its deadline passed before it could run"
                self.refuse(call, DeadlineExceeded(waited), now, commands)
            elif now < call.deadline + DEADLINE_GRACE_S:
                self.watch(call, call.deadline + DEADLINE_GRACE_S)
            elif now < call.deadline + DEADLINE_LIMIT_S:
                if call.worker is not None:
                    commands.append(CancelRun(call, call.worker, "deadline"))
                self.watch(call, call.deadline + DEADLINE_LIMIT_S)
            else:
                if call.worker is not None and (worker := self._workers.get(call.worker)) is not None:
                    worker.give_up(key)
                late = "the deadline passed, and the worker that ran the call did not end it"
                self.refuse(call, DeadlineExceeded(late), now, commands)

    def refuse(self, call: ModelCall, error: AiosError, now: float, commands: list[Command]) -> None:
        """Ends a call with an error that the scheduler sends."""
        self._close(call, now)
        commands.append(Refuse(call, error))
        self.release(call.key, now, commands, error)

    def forget(self, call: ModelCall, now: float, commands: list[Command], *, succeeded: bool) -> None:
        """A call has ended, and its worker has answered."""
        if call.worker is not None and (worker := self._workers.get(call.worker)) is not None:
            worker.free(call.key)
        self._close(call, now)
        if self._last_end is not None:
            gap = max(0.0, now - self._last_end)
            self._seconds_per_call += 0.1 * (gap - self._seconds_per_call)
        self._last_end = now
        commands.append(Forget(call, call.worker))
        self.release(call.key, now, commands, None if succeeded else EngineFailed("it ended with an error"))

    def release(self, key: str, now: float, commands: list[Command], failure: AiosError | None) -> None:
        """A call has ended: those that waited for it may start, or fail with it."""
        if failure is None:
            for call in self._chains.succeeded(key):
                self._assignment.enqueue(call)
        else:
            for call, error in self._chains.failed(key, failure):
                self.refuse(call, error, now, commands)

    def _is_open(self, key: str, order: int) -> bool:
        call = self._calls.get(key)
        return call is not None and call.order == order

    def _close(self, call: ModelCall, now: float) -> None:
        self._calls.pop(call.key, None)
        self._queue.remove(call)
        self._chains.drop(call.key)
        self._assignment.close_promise(call)
        self._assignment.leave(call, now)
        self._accounts.closed(call, now)
