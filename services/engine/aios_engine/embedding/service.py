"""The embedding server as a process: the port opens at once, the model follows, and SIGTERM drains before it stops."""

import asyncio
import logging
import signal

from aiohttp import web

from aios_engine.embedding.encoder import Encoder
from aios_engine.embedding.settings import EmbeddingSettings
from aios_engine.embedding.source import locate_embedding_model
from aios_engine.embedding.worker import EncoderThread
from aios_engine.errors import SetupError
from aios_engine.http.embed import EmbedFront, build_embed_app
from aios_kit.settings import ServiceSettings
from aios_kit.tracing import Tracing

_log = logging.getLogger(__name__)


async def serve_embeddings(settings: EmbeddingSettings, service: ServiceSettings) -> int:
    """Serves until SIGTERM or SIGINT.

    Returns:
        The exit status: 1 if the model could not be loaded or the port could not be opened.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tracing = Tracing("embedder", service)
    front = EmbedFront(settings, tracing)
    runner = web.AppRunner(
        build_embed_app(front),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,  # a request whose client has left is not worked on if it still waits
        shutdown_timeout=service.drain_timeout_s,
    )
    await runner.setup()
    thread: EncoderThread | None = None
    try:
        await web.TCPSite(runner, settings.host, settings.port, reuse_address=True).start()
        address = runner.addresses[0]
        _log.info("listening on http://%s:%d", address[0], address[1])
        encoder = await asyncio.to_thread(_load, settings)
        thread = EncoderThread(encoder, settings.max_concurrent_requests)
        front.open(thread)
        _log.info("%s ready, %d dimensions", encoder.name, encoder.dimensions)
        await stop.wait()
        _log.info("stopping")
    except (SetupError, OSError) as error:
        _log.error("%s", error)
        return 1
    finally:
        await runner.cleanup()
        if thread is not None:
            await thread.close()
        await asyncio.to_thread(tracing.close)
    return 0


def _load(settings: EmbeddingSettings) -> Encoder:
    return Encoder(locate_embedding_model(settings.model), settings.max_input_tokens, settings.threads)
