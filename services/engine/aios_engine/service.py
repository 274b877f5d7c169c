"""The engine as a process: the port opens at once, the model follows, and SIGTERM drains before it stops."""

import asyncio
import functools
import logging
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from aiohttp import web

from aios_engine.backend import Backend
from aios_engine.errors import SetupError
from aios_engine.http.app import build_app
from aios_engine.http.front import Front
from aios_engine.inference import Inference
from aios_engine.llama.model import Context, Model
from aios_engine.llama_backend import LlamaBackend, open_model
from aios_engine.model_source import locate
from aios_engine.requantise import requantised
from aios_engine.settings import EngineSettings
from aios_engine.startup import Stage, Startup
from aios_engine.validation import Limits
from aios_kit.chat_template import ChatTemplate, ChatTemplateError
from aios_kit.settings import ServiceSettings
from aios_kit.tracing import Tracing

_log = logging.getLogger(__name__)

T = TypeVar("T")


OpenBackend = Callable[["Front", asyncio.Event], Awaitable[Backend | None]]
"""Makes a backend and opens the front with it; None if the event was set before that was done."""


async def serve(settings: EngineSettings, service: ServiceSettings, open_backend: OpenBackend | None = None) -> int:
    """Serves until SIGTERM or SIGINT.

    Args:
        settings: the engine's own.
        service: logging, tracing and draining.
        open_backend: where tokens come from; None loads the model the settings name.

    Returns:
        The exit status: 1 if the model could not be loaded.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tracing = Tracing("engine", service)
    startup = Startup()
    front = Front(settings, startup, tracing)
    runner = web.AppRunner(
        build_app(front),
        access_log=None,
        handle_signals=False,
        # A client that goes away cancels its handler at once, not at the next token.
        handler_cancellation=True,
        shutdown_timeout=service.drain_timeout_s,
    )
    await runner.setup()
    backend: Backend | None = None
    try:
        await web.TCPSite(runner, settings.host, settings.port, reuse_address=True).start()
        address = runner.addresses[0]
        _log.info("listening on http://%s:%d", address[0], address[1])
        backend = await (open_backend or _load)(front, stop)
        await stop.wait()
        _log.info("stopping")
    except (SetupError, OSError) as error:
        _log.error("%s", error)
        return 1
    finally:
        await runner.cleanup()
        if backend is not None:
            await backend.close()
        await asyncio.to_thread(tracing.close)
    return 0


async def _load(front: Front, stop: asyncio.Event) -> LlamaBackend | None:
    """Loads the model and opens the front; None if stopped before."""
    settings = front.settings
    loading = _in_daemon_thread(lambda: _open(settings, front.startup))
    stopping = asyncio.ensure_future(stop.wait())
    stopping.add_done_callback(lambda _: loading.cancel())
    try:
        model, context = await loading
    except asyncio.CancelledError:
        if stop.is_set():
            return None
        raise
    finally:
        stopping.cancel()
    backend = LlamaBackend(model, context, settings, front.metrics.stepped)
    open_front(front, backend)
    return backend


def open_front(front: Front, backend: Backend) -> None:
    """Begins to serve generations of a backend."""
    facts, settings = backend.facts, front.settings
    limits = Limits(
        max_best_of=settings.max_best_of,
        max_stop_sequences=settings.max_stop_sequences,
        max_top_n_tokens=settings.max_top_n_tokens,
        max_total_tokens=facts.slot_tokens,
        max_input_tokens=facts.slot_tokens - 1,
        default_max_new_tokens=settings.default_max_new_tokens,
        vocabulary=facts.vocabulary,
        resumes=facts.resumes,
    )
    inference = Inference(backend, limits, settings.max_concurrent_requests, front.metrics, front.tracing)
    front.startup.begin(Stage.READY)
    front.open(inference, _chat_template(facts.chat_template, facts.bos_token, facts.eos_token))


def _open(settings: EngineSettings, startup: Startup) -> tuple[Model, Context]:
    startup.begin(Stage.LOCATING)
    path = locate(settings.model, settings.revision, startup.advance)
    if settings.requantise:
        startup.begin(Stage.REQUANTISING)
        path = requantised(path, settings.cache_dir, startup.advance)
    startup.begin(Stage.LOADING)
    return open_model(path, settings, startup.advance)


def _chat_template(source: str | None, bos_token: str | None, eos_token: str | None) -> ChatTemplate | None:
    if source is None:
        return None
    try:
        return ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)
    except ChatTemplateError as error:
        _log.warning("chat is not available: %s", error)
        return None


def _in_daemon_thread(work: Callable[[], T]) -> "asyncio.Future[T]":
    """Runs blocking work in a thread that does not keep the process from ending, as an executor's would."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(conclude: Callable[[], None]) -> None:
        if not future.done():
            conclude()

    def run() -> None:
        conclude: Callable[[], None]
        try:
            conclude = functools.partial(future.set_result, work())
        except Exception as error:
            # Handed to whoever awaits the future.
            conclude = functools.partial(future.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, conclude)

    threading.Thread(target=run, name="load", daemon=True).start()
    return future
