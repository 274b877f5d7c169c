"""How calls end: refused here, answered by their worker, or overtaken by their deadline; and what that sets free.

Every call that arrives leaves by exactly one of two ways: `Refuse` (the scheduler answers) or `Forget` (a worker has
answered).
"""

import heapq

from aios_proto.errors import AiosError, DeadlineExceeded, EngineFailed
from aios_scheduler.core.call import CallState, ModelCall
from aios_scheduler.core.chains import Chains
from aios_scheduler.core.commands import CancelRun, Command, Forget, Refuse
from aios_scheduler.core.pools import Pools
from aios_scheduler.core.workers import WorkerTable

DEADLINE_GRACE_S = 1.0
"""The worker ends its calls at their deadline itself; the scheduler tells it to this much later."""

DEADLINE_LIMIT_S = 3.0
"""So long after its deadline a call that no worker has ended is ended by the scheduler."""

_COMPACT_ABOVE = 1000


class Endings:
    """See the module.

    Args:
        calls: all open calls by their keys; those that end are taken out.
        pools: those that may run, and puts there what is free now.
        workers: those that run them.
        chains: those that wait for others.
    """

    def __init__(
        self,
        calls: dict[str, ModelCall],
        pools: Pools,
        workers: WorkerTable,
        chains: Chains,
    ) -> None:
        self._calls = calls
        self._pools = pools
        self._workers = workers
        self._chains = chains
        self._watched: list[tuple[float, int, str]] = []

    def next_deadline(self) -> float | None:
        """When the next call must be looked at (Unix seconds)."""
        return self._watched[0][0] if self._watched else None

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
        self._pools.of(call).call_ended(now)
        commands.append(Forget(call, call.worker))
        self.release(call.key, now, commands, None if succeeded else EngineFailed("it ended with an error"))

    def release(self, key: str, now: float, commands: list[Command], failure: AiosError | None) -> None:
        """A call has ended: those that waited for it may start, or fail with it."""
        if failure is None:
            for call in self._chains.succeeded(key):
                self._pools.enqueue(call, now)
        else:
            for call, error in self._chains.failed(key, failure):
                self.refuse(call, error, now, commands)

    def _is_open(self, key: str, order: int) -> bool:
        call = self._calls.get(key)
        return call is not None and call.order == order

    def _close(self, call: ModelCall, now: float) -> None:
        self._calls.pop(call.key, None)
        self._chains.drop(call.key)
        self._pools.of(call).give_away(call, now)
