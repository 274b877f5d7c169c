"""TGI's native API on a socket, doing as a test says: stream, stall, break off, refuse, or send nonsense.

It says what TGI says (routes, field names, errors), and nothing of a model. The worker's own engine is held to the same
by `tests/integration/llm/test_real_engine.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import orjson
from aiohttp import web

Script = Callable[["GenerateStream"], Awaitable[None]]
TIMEOUT_S = 10.0


class GenerateStream:
    """One request to `/generate_stream` and the answer being written.

    Attributes:
        body: the request.
        headers: of the request, names in lower case.
        closed: set when the request is over, by either side.
        written: tokens written so far.
    """

    def __init__(self, request: web.Request, body: dict[str, Any]) -> None:
        self.body = body
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        self.closed = asyncio.Event()
        self.written = 0
        self.response: web.StreamResponse | None = None
        self._request = request
        self._text = ""

    @property
    def parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = self.body["parameters"]
        return parameters

    async def token(self, text: str, *, special: bool = False, **more: Any) -> None:
        """One token's event."""
        await self.raw(b"data:" + orjson.dumps(self._event(text, special) | more) + b"\n\n")

    async def last(
        self,
        text: str,
        reason: str = "eos_token",
        *,
        special: bool = False,
        more: dict[str, Any] | None = None,
        **details: Any,
    ) -> None:
        """The last token's event, with the details, and `more` beside the token."""
        event = (
            self._event(text, special)
            | (more or {})
            | {
                "generated_text": self._text,
                "details": {
                    "finish_reason": reason,
                    "generated_tokens": self.written,
                    "seed": None,
                    "input_length": 7,
                    **details,
                },
            }
        )
        await self.raw(b"data:" + orjson.dumps(event) + b"\n\n")

    async def answer(self, *texts: str, reason: str = "eos_token") -> None:
        """A whole answer."""
        for text in texts[:-1]:
            await self.token(text)
        await self.last(texts[-1], reason)

    async def error(self, text: str, kind: str) -> None:
        """An error inside the stream, as an event."""
        await self.raw(b"data:" + orjson.dumps({"error": text, "error_type": kind}) + b"\n\n")

    async def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        if self.response is None:
            self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await self.response.prepare(self._request)
        await self.response.write(data)

    def hang_up(self) -> None:
        """Closes the connection in the middle of whatever it is doing."""
        assert self._request.transport is not None
        self._request.transport.abort()

    async def forever(self) -> None:
        """Says nothing more."""
        await asyncio.Event().wait()

    def refuse(self, status: int, text: str, kind: str) -> NoReturn:
        """Answers with an HTTP error instead of a stream."""
        raise _Refusal(status, text, kind)

    def _event(self, text: str, special: bool) -> dict[str, Any]:
        self.written += 1
        self._text += text
        token = {"id": self.written, "text": text, "logprob": -0.5, "special": special}
        return {"index": self.written, "token": token, "generated_text": None, "details": None}


class _Refusal(Exception):
    def __init__(self, status: int, text: str, kind: str) -> None:
        super().__init__(text)
        self.status, self.text, self.kind = status, text, kind


class TgiStandIn:
    """The server.

    Attributes:
        healthy: what `/health` says.
        info: what `/info` says.
        script: how the next requests are answered; unless it is set they stream "Hello world".
        streams: requests in the order they came.
    """

    def __init__(self) -> None:
        self.healthy = True
        self.info: dict[str, Any] = {
            "model_id": "stand-in",
            "version": "3.3.7",
            "max_input_tokens": 1000,
            "max_total_tokens": 2000,
            "max_concurrent_requests": 8,
            "max_batch_total_tokens": 16000,
        }
        self.script: Script = _hello
        self.streams: list[GenerateStream] = []
        self.port = 0
        self._came = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listens; on the same port as before if it was stopped."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/info", self._info)
        app.router.add_post("/chat_tokenize", self._chat_tokenize)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/generate_stream", self._generate_stream)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Closes everything, running streams too."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            for stream in self.streams:
                if not stream.closed.is_set():
                    stream.hang_up()
            await runner.cleanup()

    async def stream(self, number: int = 0) -> GenerateStream:
        """Waits for the request of that number."""
        async with asyncio.timeout(TIMEOUT_S), self._came:
            await self._came.wait_for(lambda: len(self.streams) > number)
        return self.streams[number]

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _info(self, _: web.Request) -> web.Response:
        return web.json_response(self.info)

    async def _chat_tokenize(self, request: web.Request) -> web.Response:
        turns = (await request.json())["messages"]
        prompt = "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + "<assistant>"
        return web.json_response({"tokenize_response": [], "templated_text": prompt})

    async def _tokenize(self, request: web.Request) -> web.Response:
        text = (await request.json())["inputs"]
        return web.json_response([{"id": ord(c), "text": c, "start": i, "stop": i + 1} for i, c in enumerate(text)])

    async def _generate_stream(self, request: web.Request) -> web.StreamResponse:
        stream = GenerateStream(request, await request.json())
        async with self._came:
            self.streams.append(stream)
            self._came.notify_all()
        try:
            await self.script(stream)
        except _Refusal as refusal:
            return web.json_response({"error": refusal.text, "error_type": refusal.kind}, status=refusal.status)
        except ConnectionError:
            return web.Response()
        finally:
            stream.closed.set()
        return stream.response or web.Response()


async def _hello(stream: GenerateStream) -> None:
    await stream.answer("Hello", " world")


@asynccontextmanager
async def tgi_stand_in() -> AsyncIterator[TgiStandIn]:
    """A listening stand-in."""
    server = TgiStandIn()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
