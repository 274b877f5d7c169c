"""A real embedding server for tests: `python -m aios_engine embed` on the default model; ready in a few seconds."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from support.engine import engine_process


@contextmanager
def running_embedder(env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Starts the server on a free port, waits until it is ready, and gives its base URL."""
    with engine_process({"AIOS_EMBED_PORT": "0", **(env or {})}, flags=("embed",)) as server:
        server.wait_until_ready()
        yield server.url
