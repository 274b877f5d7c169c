"""The routes of text-embeddings-inference: `/embed`, `/info`, `/health`, `/metrics`; what is ours is under `aios`."""

import hmac
import logging
import time
from typing import Final, Literal

import orjson
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from aios_engine import __version__
from aios_engine.embedding.encoder import Tokens
from aios_engine.embedding.errors import EmbeddingFailedError, EmptyInputError, InputTooLongError
from aios_engine.embedding.settings import EmbeddingSettings
from aios_engine.embedding.worker import EncoderThread
from aios_engine.errors import EngineError, UnhealthyError
from aios_engine.http.body import MAX_BODY_BYTES, read_body
from aios_engine.wire import Wire
from aios_kit.tracing import Tracing
from aios_proto import telemetry

_log = logging.getLogger(__name__)

_TEI_API: Final = "1.8.2"
_OPEN: Final = frozenset({"/health", "/ping", "/info", "/metrics", "/"})
_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class EmbedRequest(Wire):
    """`POST /embed`. Fields and defaults are TEI's; `truncate` left out means the server's own setting."""

    inputs: str | list[str]
    normalize: bool = True
    truncate: bool | None = None
    truncation_direction: Literal["Right", "right"] = "Right"


class EmbedFront:
    """One HTTP front; its encoder appears when the model is loaded."""

    def __init__(self, settings: EmbeddingSettings, tracing: Tracing) -> None:
        self.settings = settings
        self.tracing = tracing
        self._thread: EncoderThread | None = None
        self.registry = CollectorRegistry()
        self.requests = Counter("te_embed_count", "requests by outcome", ["outcome"], registry=self.registry)
        self.tokens = Counter("te_embed_tokens", "tokens embedded", registry=self.registry)
        self.seconds = Histogram("te_embed_duration", "seconds of a request", buckets=_BUCKETS, registry=self.registry)
        waiting = Gauge("te_queue_size", "requests that wait or run", registry=self.registry)
        waiting.set_function(lambda: 0 if self._thread is None else self._thread.requests)

    def open(self, thread: EncoderThread) -> None:
        """Begins to serve."""
        self._thread = thread

    @property
    def thread(self) -> EncoderThread:
        """What embeds.

        Raises:
            UnhealthyError: the model is not loaded.
        """
        if self._thread is None:
            raise UnhealthyError("the embedding model is not ready")
        return self._thread


_FRONT: Final = web.AppKey("embed_front", EmbedFront)


def build_embed_app(front: EmbedFront) -> web.Application:
    """The HTTP application."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors, _key])
    app[_FRONT] = front
    app.add_routes(
        [
            web.get("/", _health),
            web.get("/health", _health),
            web.get("/ping", _health),
            web.get("/info", _info),
            web.get("/metrics", _metrics),
            web.post("/", _embed),
            web.post("/embed", _embed),
        ]
    )
    return app


async def _health(request: web.Request) -> web.Response:
    _ = request.app[_FRONT].thread
    return web.Response()


async def _info(request: web.Request) -> web.Response:
    front = request.app[_FRONT]
    encoder, settings = front.thread.encoder, front.settings
    return web.json_response(
        {
            "model_id": encoder.name,
            "model_sha": None,
            "model_dtype": "int8" if encoder.name.endswith("int8") else "float32",
            "model_type": {"embedding": {"pooling": "mean"}},
            "max_concurrent_requests": settings.max_concurrent_requests,
            "max_input_length": encoder.max_tokens,
            "max_batch_tokens": encoder.max_tokens * settings.max_client_batch_size,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_client_batch_size,
            "auto_truncate": settings.auto_truncate,
            "tokenization_workers": 1,
            "version": _TEI_API,
            "sha": None,
            "docker_label": None,
            "aios": {"engine_version": __version__, "dimensions": encoder.dimensions},
        }
    )


async def _metrics(request: web.Request) -> web.Response:
    body = generate_latest(request.app[_FRONT].registry)
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def _embed(request: web.Request) -> web.Response:
    front = request.app[_FRONT]
    thread = front.thread
    started = time.monotonic()
    hop = front.tracing.hop(
        f"POST {request.path}",
        request.headers.get("traceparent"),
        kind=SpanKind.SERVER,
        attributes={telemetry.GEN_AI_REQUEST_MODEL: thread.encoder.name, "url.path": request.path},
    )
    outcome = "failed"
    try:
        body = await read_body(request, EmbedRequest)
        tokens = await thread.tokenize(_texts(body, front.settings))
        _check_length(tokens, body, front.settings)
        embedded = await thread.embed(tokens, normalize=body.normalize)
        front.tokens.inc(embedded.tokens)
        outcome = "ok"
        answer = orjson.dumps(embedded.vectors, option=orjson.OPT_SERIALIZE_NUMPY)
        return web.Response(
            body=answer, content_type="application/json", headers={"x-compute-tokens": str(embedded.tokens)}
        )
    except EngineError as error:
        outcome = error.error_type
        hop.set({telemetry.ERROR_TYPE: error.error_type})
        raise
    finally:
        hop.end()
        front.requests.labels(outcome).inc()
        front.seconds.observe(time.monotonic() - started)


def _texts(body: EmbedRequest, settings: EmbeddingSettings) -> list[str]:
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    if not texts or not all(texts):
        raise EmptyInputError("`inputs` cannot be empty")
    if len(texts) > settings.max_client_batch_size:
        raise InputTooLongError(
            f"batch size {len(texts)} > maximum allowed batch size {settings.max_client_batch_size}"
        )
    return texts


def _check_length(texts: list[Tokens], body: EmbedRequest, settings: EmbeddingSettings) -> None:
    truncate = settings.auto_truncate if body.truncate is None else body.truncate
    if not truncate and any(text.cut for text in texts):
        raise InputTooLongError(f"`inputs` must have less than {settings.max_input_tokens} tokens")


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except EngineError as error:
        return web.json_response(error.body(), status=error.status)
    except web.HTTPException:
        raise
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        failure = EmbeddingFailedError("internal error, see the server's log")
        return web.json_response(failure.body(), status=failure.status)


@web.middleware
async def _key(request: web.Request, handler: Handler) -> web.StreamResponse:
    key = request.app[_FRONT].settings.api_key
    if key is None or (request.method == hdrs.METH_GET and request.path in _OPEN):
        return await handler(request)
    given = request.headers.get(hdrs.AUTHORIZATION, "")
    if not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
        return web.Response(status=401)
    return await handler(request)
