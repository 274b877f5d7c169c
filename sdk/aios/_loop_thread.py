"""An event loop in a thread of its own, for programs that have none.

The loop is uvloop's where that is installed.
"""

import asyncio
import concurrent.futures
import contextvars
import importlib
import threading
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, cast

from aios_proto.errors import BusUnavailable

R = TypeVar("R")

STOP_TIMEOUT_S: Final = 15.0


class LoopThread:
    """An event loop in a daemon thread; work comes in from any other thread."""

    def __init__(self) -> None:
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._serve, name="aios-loop", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], R]) -> R:
        """Runs a function on the loop, with the context variables of this thread, and waits for it."""
        outcome: concurrent.futures.Future[R] = concurrent.futures.Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:
                outcome.set_exception(error)

        self._schedule(run)
        return outcome.result()

    def wait(self, work: Callable[[], Awaitable[R]]) -> R:
        """Awaits something on the loop; interrupting the wait stops awaiting."""
        outcome: concurrent.futures.Future[R] = concurrent.futures.Future()
        tasks: list[asyncio.Task[None]] = []

        async def run() -> None:
            try:
                outcome.set_result(await work())
            except BaseException as error:
                outcome.set_exception(error)

        self._schedule(lambda: tasks.append(self._loop.create_task(run())))
        try:
            return outcome.result()
        except BaseException:
            if not outcome.done():
                self._schedule(lambda: [task.cancel() for task in tasks])
            raise

    def stop(self) -> None:
        """Ends the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_TIMEOUT_S)

    def _schedule(self, work: Callable[[], object]) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError("a SyncAgent cannot be used from its own event loop")
        try:
            self._loop.call_soon_threadsafe(work, context=contextvars.copy_context())
        except RuntimeError as error:
            raise BusUnavailable("the agent was closed", retryable=False) from error

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    return cast(asyncio.AbstractEventLoop, uvloop.new_event_loop())
