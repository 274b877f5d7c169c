"""HTTP exchanges with a real inference server: recorded through a proxy, and played again without the server.

A recording is the requests an adapter made in one test and the bytes that came back, in the pieces they came in. Played
again, only the very same requests are answered: a recording never speaks for something the server was not asked.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

CLOSE_TIMEOUT_S = 20.0


@dataclass
class Exchange:
    """A request and its answer.

    Attributes:
        body: of the request, as JSON; None where there was none.
        chunks: of the answer, as they came.
        closed: whether the client went before the end.
    """

    method: str
    path: str
    body: Any
    status: int = 0
    content_type: str = ""
    chunks: list[str] = field(default_factory=list)
    closed: bool = False


@dataclass
class Played:
    """A server that plays a recording.

    Attributes:
        url: its base URL.
        left: not yet asked for.
        unknown: requests that are in no recording.
        gone: set when a client went where the recording says so.
    """

    url: str
    left: list[Exchange]
    unknown: list[Exchange] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def recording(target: str, file: Path) -> AsyncIterator[str]:
    """Passes everything on to a server, and writes down what was said; gives its own base URL."""
    exchanges: list[Exchange] = []

    async def pass_on(request: web.Request) -> web.StreamResponse:
        data = await request.read()
        exchange = Exchange(request.method, request.path, json.loads(data) if data else None)
        exchanges.append(exchange)
        headers = {"Content-Type": request.content_type} if data else {}
        async with http.request(request.method, target + request.path, data=data or None, headers=headers) as answer:
            exchange.status, exchange.content_type = answer.status, answer.content_type
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            await response.prepare(request)
            rest = b""
            async for chunk in answer.content.iter_any():
                rest += chunk
                try:
                    exchange.chunks.append(rest.decode())
                    rest = b""
                except UnicodeDecodeError:  # it ends within a character
                    continue
                try:
                    await response.write(chunk)
                except ConnectionError:
                    exchange.closed = True
                    return response
        await response.write_eof()
        return response

    async with aiohttp.ClientSession() as http, _serving(pass_on, cancels=False) as url:
        yield url
    _write(file, exchanges)


@asynccontextmanager
async def playing(file: Path) -> AsyncIterator[Played]:
    """Answers as recorded."""
    played = Played("", _read(file))

    async def answer(request: web.Request) -> web.StreamResponse:
        data = await request.read()
        asked = Exchange(request.method, request.path, json.loads(data) if data else None)
        key = (asked.method, asked.path, asked.body)
        found = next((one for one in played.left if (one.method, one.path, one.body) == key), None)
        if found is None:
            played.unknown.append(asked)
            return web.Response(status=500)
        played.left.remove(found)
        response = web.StreamResponse(status=found.status, headers={"Content-Type": found.content_type})
        await response.prepare(request)
        try:
            for chunk in found.chunks:
                await response.write(chunk.encode())
            if found.closed:
                await asyncio.sleep(CLOSE_TIMEOUT_S)  # until the client goes
        except (asyncio.CancelledError, ConnectionError):
            played.gone.set()
            raise
        await response.write_eof()
        return response

    async with _serving(answer, cancels=True) as url:
        played.url = url
        yield played


def _write(file: Path, exchanges: list[Exchange]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    said = [asdict(exchange) for exchange in exchanges]
    file.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")


def _read(file: Path) -> list[Exchange]:
    return [Exchange(**exchange) for exchange in json.loads(file.read_text())]


@asynccontextmanager
async def _serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], *, cancels: bool
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=cancels, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
