"""How spans come in: an OTLP/HTTP endpoint (`POST /v1/traces`) with probes, before a bounded intake."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from aios_stack.spans.forward import Forwarder, RawRequest
from aios_stack.spans.intake import Intake
from aios_stack.spans.otlp import JSON, PROTOBUF, BadRequest, TooLarge, parse, unpack
from aios_stack.spans.settings import SpanStoreSettings

_RETRY_AFTER_S = "1"
_SMALL_BODY_BYTES = 256 << 10


class Receiver:
    """The HTTP side of the store."""

    def __init__(self, intake: Intake, forwarder: Forwarder | None, max_request_bytes: int) -> None:
        self._intake = intake
        self._forwarder = forwarder
        self._max_bytes = max_request_bytes

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=self._max_bytes, handler_args={"auto_decompress": False})
        app.router.add_post("/v1/traces", self.traces)
        app.router.add_get("/healthz", self.ready)
        app.router.add_get("/readyz", self.ready)
        return app

    async def traces(self, request: web.Request) -> web.Response:
        """Takes one export; answers 200 once it is queued, 503 with Retry-After when the disk is behind."""
        raw = RawRequest(
            await request.read(), request.content_type, request.headers.get("Content-Encoding", "").strip().lower()
        )
        try:
            if len(raw.body) <= _SMALL_BODY_BYTES and not raw.content_encoding:
                message = parse(raw.body, raw.content_type)
            else:
                message = await asyncio.to_thread(self._parse, raw)
        except TooLarge as error:
            return web.Response(status=413, text=str(error))
        except BadRequest as error:
            status = 415 if raw.content_type not in (PROTOBUF, JSON) else 400
            return web.Response(status=status, text=str(error))
        if not self._intake.offer(message):
            return web.Response(status=503, text="the span store is behind", headers={"Retry-After": _RETRY_AFTER_S})
        if self._forwarder is not None:
            self._forwarder.offer(raw)
        return _answer(ExportTraceServiceResponse(), raw.content_type)

    async def ready(self, _: web.Request) -> web.Response:
        """200 while the writer is alive."""
        if self._intake.failure is not None:
            return web.json_response({"status": "not ready", "reason": str(self._intake.failure)}, status=503)
        return web.json_response({"status": "ready", "stored": self._intake.stored})

    def _parse(self, raw: RawRequest) -> ExportTraceServiceRequest:
        return parse(unpack(raw.body, raw.content_encoding, self._max_bytes), raw.content_type)


@contextlib.asynccontextmanager
async def running(settings: SpanStoreSettings) -> AsyncIterator[str]:
    """Runs the store; gives its base URL. On leaving, everything accepted is on disk.

    Raises:
        OSError: the port is taken or the file cannot be opened.
    """
    settings.path.parent.mkdir(parents=True, exist_ok=True)
    intake = Intake(settings.path, max_bytes=settings.max_bytes, queue_requests=settings.queue_requests)
    await asyncio.to_thread(intake.start)
    try:
        async with contextlib.AsyncExitStack() as stack:
            forwarder = None
            if settings.forward_endpoint is not None:
                forwarder = await stack.enter_async_context(Forwarder(settings.forward_endpoint))
            app = Receiver(intake, forwarder, settings.max_request_bytes).application()
            runner = web.AppRunner(app, access_log=None, handle_signals=False)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, settings.host, settings.port).start()
            yield f"http://{settings.host}:{runner.addresses[0][1]}"
    finally:
        await asyncio.to_thread(intake.close)


def _answer(message: ExportTraceServiceResponse, content_type: str) -> web.Response:
    if content_type == JSON:
        return web.json_response({})
    return web.Response(body=message.SerializeToString(), content_type=PROTOBUF)
