"""Which copies go on to another OTLP receiver: all it can take; what it cannot take in time is dropped and counted."""

import asyncio
from dataclasses import dataclass
from typing import Self

import aiohttp
import structlog

_WAITING = 64
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request as it came in, so that nothing of it is lost on the way."""

    body: bytes
    content_type: str
    content_encoding: str


class Forwarder:
    """Sends requests on, one after the other. Use as an async context manager."""

    def __init__(self, endpoint: str) -> None:
        self._url = f"{endpoint.rstrip('/')}/v1/traces"
        self._queue: asyncio.Queue[RawRequest] = asyncio.Queue(_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.stdlib.get_logger("spans")
        self._failing = False
        self.dropped = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="span-forwarder")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is None:
            return
        try:
            await asyncio.wait_for(self._queue.join(), _TIMEOUT_S)
        except TimeoutError:
            self.dropped += self._queue.qsize()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def offer(self, request: RawRequest) -> None:
        """Takes a copy, or counts it as dropped where too many wait; never blocks."""
        try:
            self._queue.put_nowait(request)
        except asyncio.QueueFull:
            self.dropped += 1

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                request = await self._queue.get()
                try:
                    await self._send(session, request)
                finally:
                    self._queue.task_done()

    async def _send(self, session: aiohttp.ClientSession, request: RawRequest) -> None:
        headers = {"Content-Type": request.content_type}
        if request.content_encoding:
            headers["Content-Encoding"] = request.content_encoding
        try:
            async with session.post(self._url, data=request.body, headers=headers) as response:
                response.raise_for_status()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.dropped += 1
            if not self._failing:  # once per outage: this must not fill the log
                self._log.warning("spans are not forwarded", endpoint=self._url, error=str(error) or "timeout")
            self._failing = True
        else:
            self._failing = False
