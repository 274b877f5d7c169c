"""When checkpoints are written, and that they are: in the background, so that no token waits for one."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from aios_kit.logs import Log
from aios_llm.checkpoint import Checkpoint, decode
from aios_llm.kv_trails import KvTrails

_WRITERS = 4
_FIRST_S = 0.1
_MAX_BYTES = 768 << 10
"""Below the megabyte that the bus carries in one message."""


class CheckpointStore(Protocol):
    """Where checkpoints are kept, by the call's key."""

    async def put(self, key: str, data: bytes) -> bool:
        """Keeps one instead of the one before; whether it did. Never raises."""

    async def get(self, key: str) -> bytes | None:
        """The last one; None if there is none, or none can be had now. Never raises."""

    async def read(self, key: str) -> bytes | None:
        """The last one; None if there is none.

        Raises:
            BusUnavailable: the store does not answer.
        """

    async def remove(self, key: str) -> None:
        """Forgets it. Never raises."""


class Checkpointed(Protocol):
    """What the writer needs to know of a run."""

    @property
    def key(self) -> str:
        """The call's key."""

    @property
    def attempt(self) -> int:
        """How often the call was given to a worker."""

    @property
    def tokens(self) -> int:
        """How many tokens it has."""

    @property
    def ending(self) -> bool:
        """Whether its last frame is being made: from then on nothing is gone on with."""

    def checkpoint(self) -> Checkpoint | None:
        """What is known of it now; None before anything is."""


@dataclass(slots=True, eq=False)
class _Course:
    """How far the checkpoints of one run are."""

    run: Checkpointed
    stored: bool
    written_tokens: int = 0
    timer: asyncio.TimerHandle | None = None
    queued: bool = False
    ended: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def rest(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Checkpoints:
    """Writes the checkpoints of all runs of this worker.

    Args:
        store: where they go.
        every_tokens: one is written after so many tokens,
        every_s: or so many seconds after a token came at the latest, whichever is first.
        log: where what could not be written is told.
        trails: store KV beside them; None stores none.
    """

    def __init__(
        self, store: CheckpointStore, every_tokens: int, every_s: float, log: Log, trails: KvTrails | None = None
    ) -> None:
        self._store = store
        self._trails = trails
        self._every_tokens = every_tokens
        self._every_s = every_s
        self._log = log
        self._courses: dict[Checkpointed, _Course] = {}
        self._due: asyncio.Queue[_Course] = asyncio.Queue()
        self._writers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to write."""
        self._writers = [asyncio.create_task(self._write_due(), name="write checkpoints") for _ in range(_WRITERS)]

    async def stop(self, timeout_s: float) -> None:
        """Carries out what is due, within that many seconds, and ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._due.join()
        for writer in self._writers:
            writer.cancel()
        await asyncio.gather(*self._writers, return_exceptions=True)

    async def load(self, key: str) -> Checkpoint | None:
        """The last checkpoint of a call, if there is one that can be used."""
        data = await self._store.get(key)
        return None if data is None else decode(data)

    async def of_other(self, key: str) -> Checkpoint | None:
        """What is kept of another call, if it can be used.

        Raises:
            BusUnavailable: the store does not answer.
        """
        data = await self._store.read(key)
        return None if data is None else decode(data)

    def begin(self, run: Checkpointed) -> None:
        """A run begins."""
        # Of a call that was run before there may be a checkpoint, whether it is found or not.
        self._courses[run] = _Course(run, stored=run.attempt > 1)

    def progressed(self, run: Checkpointed) -> None:
        """A token came. Costs next to nothing."""
        course = self._courses.get(run)
        if course is None or course.queued:
            return
        if run.tokens - course.written_tokens >= self._every_tokens:
            self._is_due(course)
        elif course.timer is None:
            # The first is early: without one a call begins anew, and what its caller has read is made again first.
            wait_s = self._every_s if course.written_tokens else min(self._every_s, _FIRST_S)
            course.timer = asyncio.get_running_loop().call_later(wait_s, self._is_due, course)

    async def write_now(self, run: Checkpointed, timeout_s: float) -> bool:
        """Writes what is there before the call is given back; whether it could."""
        course = self._courses.get(run)
        if course is None:
            return False
        course.rest()
        try:
            async with asyncio.timeout(timeout_s), course.turn:
                written = await self._write(course)
        except TimeoutError:
            return False
        if self._trails is not None:
            self._trails.complete(run.key, run.tokens)
        return written

    def leave(self, run: Checkpointed) -> None:
        """The run is over and its call is not: its checkpoint stays."""
        course = self._courses.pop(run, None)
        if course is not None:
            course.rest()

    def forget(self, run: Checkpointed) -> None:
        """The call has ended: what is stored of it is removed, in the background."""
        course = self._courses.pop(run, None)
        if course is None:
            return
        course.rest()
        course.ended = True
        if self._trails is not None:
            self._trails.forget(run.key, of_another=run.attempt > 1)
        if course.stored or course.queued:
            self._due.put_nowait(course)

    def _is_due(self, course: _Course) -> None:
        course.rest()
        if not course.queued:
            course.queued = True
            self._due.put_nowait(course)

    async def _write_due(self) -> None:
        while True:
            course = await self._due.get()
            try:
                async with course.turn:
                    course.queued = False
                    if course.ended:
                        if course.stored:
                            course.stored = False
                            await self._store.remove(course.run.key)
                    elif course.run in self._courses and not course.run.ending:
                        await self._write(course)
                        if self._trails is not None and not course.ended:
                            self._trails.extend(course.run.key, course.run.tokens)
            finally:
                self._due.task_done()

    async def _write(self, course: _Course) -> bool:
        checkpoint = course.run.checkpoint()
        if checkpoint is None:
            return False
        course.written_tokens = checkpoint.made.tokens
        data = checkpoint.encode()
        if len(data) > _MAX_BYTES:
            self._log.warning("a checkpoint is too large; the one before stays", key=course.run.key, bytes=len(data))
            return False
        course.stored = True
        return await self._store.put(course.run.key, data)
