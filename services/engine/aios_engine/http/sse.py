"""How events are streamed: server-sent events, with a comment line where nothing is said for a while."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

import orjson
from aiohttp import web

_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class EventStream:
    """A response that is a stream of events; use it as a context manager.

    A client that goes away ends the block without an error: there is nobody to tell.
    """

    def __init__(self, request: web.Request, keep_alive_s: float, headers: dict[str, str]) -> None:
        """Prepares nothing yet.

        Args:
            request: what is answered.
            keep_alive_s: silence after which a comment is sent.
            headers: beside those every stream has.
        """
        self._request = request
        self._keep_alive_s = keep_alive_s
        self.response = web.StreamResponse(headers={**_HEADERS, **headers})
        self._sent_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.response.prepare(self._request)
        self._sent_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._keep_alive())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await self._task
        if error is None:
            with suppress(ConnectionError):
                await self.response.write_eof()
        return isinstance(error, ConnectionError)

    async def send(self, event: object) -> None:
        """Sends one event, as JSON.

        Raises:
            ConnectionError: the client has gone.
        """
        await self._write(b"data:" + orjson.dumps(event) + b"\n\n")

    async def done(self) -> None:
        """Sends the event that ends an OpenAI stream."""
        # With a space: Hugging Face's client compares the whole line.
        await self._write(b"data: [DONE]\n\n")

    async def _write(self, data: bytes) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        await self.response.write(data)

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            silent_s = loop.time() - self._sent_at
            if silent_s >= self._keep_alive_s:
                await self._write(b":\n\n")
                silent_s = 0.0
            await asyncio.sleep(self._keep_alive_s - silent_s)
