"""`python -m aios_engine [emulate | embed]`: serves a model, emulates one on a GPU, or serves embeddings."""

import asyncio
import logging
import sys
from collections.abc import Coroutine

import uvloop
from pydantic import ValidationError
from pydantic_settings import CliApp

from aios_engine.emulator.backend import open_emulator
from aios_engine.emulator.settings import EmulatorSettings
from aios_engine.service import serve
from aios_engine.settings import EngineSettings
from aios_kit.settings import ServiceSettings


def main() -> int:
    """Reads the settings and serves."""
    try:
        service = ServiceSettings()
        arguments = sys.argv[1:]
        if arguments[:1] == ["embed"]:
            return _embed(service, arguments[1:])
        emulated = arguments[:1] == ["emulate"]
        settings: EngineSettings
        if emulated:
            settings = CliApp.run(EmulatorSettings, cli_args=arguments[1:])
        else:
            settings = CliApp.run(EngineSettings, cli_args=arguments)
    except ValidationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return _run(service, serve(settings, service, open_emulator if emulated else None))


def _embed(service: ServiceSettings, arguments: list[str]) -> int:
    # Here, because ONNX Runtime takes 50 MB that a generating engine has no use for.
    from aios_engine.embedding.service import serve_embeddings
    from aios_engine.embedding.settings import EmbeddingSettings

    return _run(service, serve_embeddings(CliApp.run(EmbeddingSettings, cli_args=arguments), service))


def _run(service: ServiceSettings, serving: Coroutine[None, None, int]) -> int:
    # Plain lines: progress is read by people, here and in the stack's log.
    logging.basicConfig(
        level=service.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    for noisy in ("gguf", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serving)


if __name__ == "__main__":
    sys.exit(main())
