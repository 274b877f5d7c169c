"""Who owns the background tasks of a service, how many there may be, and how they end.

A task group would cancel all its tasks when one fails; calls must not end each other, so each ends on its own here and
a failure is logged.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from aios_kit.logs import Log

_CANCEL_AGAIN_S = 2.0


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancels tasks, and returns when they have ended, however they did.

    Cancels again those that go on: `asyncio.wait_for` of Python 3.11, which nats-py uses, loses a cancellation that
    comes in the very step in which what it waits for ends.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)


class Tasks:
    """A bounded set of running tasks.

    Args:
        limit: how many may run at once; `reserve` waits beyond it.
        log: where a task that raised is reported.
    """

    def __init__(self, limit: int, log: Log) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(limit)
        self._log = log

    def __len__(self) -> int:
        return len(self._running)

    async def start(self, work: Coroutine[None, None, None], name: str | None = None) -> asyncio.Task[None]:
        """Runs `work` in the background; waits first while `limit` tasks are running: that is the back-pressure."""
        try:
            await self._slots.acquire()
        except asyncio.CancelledError:
            work.close()
            raise
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("background task failed", task=task.get_name(), exc_info=error)

    async def drain(self, timeout_s: float) -> int:
        """Waits for all tasks to end; cancels those that have not after `timeout_s` and returns how many those were."""
        if not self._running:
            return 0
        _, late = await asyncio.wait(self._running, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1)
        return len(late)
