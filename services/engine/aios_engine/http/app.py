"""The routes, and what happens around each of them: the key, the span, and errors as TGI answers them."""

import hmac
import logging
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from opentelemetry.trace import SpanKind

from aios_engine.errors import EngineError, GenerationError
from aios_engine.http import admin, generate, kv, openai, tokens
from aios_engine.http.body import MAX_BODY_BYTES
from aios_engine.http.front import FRONT, HOP, Front, front_of
from aios_proto import telemetry

_log = logging.getLogger(__name__)

_OPEN: Final = frozenset({"/health", "/ping", "/info", "/metrics"})
"""Routes that ask for no key, as in TGI; `GET /` is `/health`."""


def build_app(front: Front) -> web.Application:
    """The HTTP application."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors, _key, _span])
    app[FRONT] = front
    app.add_routes(
        [
            web.get("/", admin.health),
            web.get("/health", admin.health),
            web.get("/ping", admin.health),
            web.get("/info", admin.info),
            web.get("/metrics", admin.metrics),
            web.get("/v1/models", admin.models),
            web.post("/", generate.compat_generate),
            web.post("/generate", generate.generate),
            web.post("/generate_stream", generate.generate_stream),
            web.post("/tokenize", tokens.tokenize),
            web.post("/chat_tokenize", tokens.chat_tokenize),
            web.post(kv.READ_PATH, kv.read),
            web.get("/aios/kv/{key}", kv.get),
            web.put("/aios/kv/{key}", kv.put),
            web.delete("/aios/kv/{key}", kv.delete),
            web.post("/v1/chat/completions", openai.chat_completions),
            web.post("/v1/completions", openai.completions),
        ]
    )
    return app


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except EngineError as error:
        return web.json_response(error.body(), status=error.status)
    except web.HTTPException:
        raise
    except Exception:
        # The boundary of a request: a bug answers 424 and is logged; the engine lives on.
        _log.exception("%s %s failed", request.method, request.path)
        failure = GenerationError("internal error, see the engine's log")
        return web.json_response(failure.body(), status=failure.status)


@web.middleware
async def _key(request: web.Request, handler: Handler) -> web.StreamResponse:
    key = front_of(request).settings.api_key
    if key is None or (request.method == hdrs.METH_GET and request.path in {*_OPEN, "/"}):
        return await handler(request)
    given = request.headers.get(hdrs.AUTHORIZATION, "")
    if not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
        return web.Response(status=401)
    return await handler(request)


@web.middleware
async def _span(request: web.Request, handler: Handler) -> web.StreamResponse:
    generates = request.method == hdrs.METH_POST and request.path != kv.READ_PATH
    if not generates or request.match_info.http_exception is not None:
        return await handler(request)
    front = front_of(request)
    hop = front.tracing.hop(
        f"POST {request.path}",
        request.headers.get("traceparent"),
        kind=SpanKind.SERVER,
        attributes={telemetry.GEN_AI_REQUEST_MODEL: front.settings.model, "url.path": request.path},
    )
    request[HOP] = hop
    try:
        return await handler(request)
    except EngineError as error:
        hop.set({telemetry.ERROR_TYPE: error.error_type})
        raise
    finally:
        hop.end()
