"""llama.cpp's own server on the small model, as a process of its own: a real engine that is not ours.

    python -m support.llama_server [model.gguf]      # prints its URL, and serves until its input ends

It comes in the wheel that our engine runs on, so it costs no installation.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STOP_TIMEOUT_S = 30.0
MODEL = "smollm2-135m-instruct"
CONTEXT_TOKENS = 1024
SLOTS = 4


@contextmanager
def running_llama_server() -> Iterator[str]:
    """Starts it, waits until it serves, and gives its base URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.llama_server"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), "llama.cpp's server did not start"
        yield url
    finally:
        process.kill()
        process.communicate(timeout=STOP_TIMEOUT_S)


def serve() -> None:
    """Serves on a free port until the standard input ends."""
    import xllamacpp

    from aios_engine.model_source import locate

    params = xllamacpp.CommonParams()
    params.model.path = str(locate(sys.argv[1] if len(sys.argv) > 1 else MODEL, None, lambda share: None))
    params.model_alias = {MODEL}
    params.n_parallel = SLOTS
    params.n_ctx = CONTEXT_TOKENS * SLOTS
    params.cpuparams.n_threads = 1  # two wait for each other, busily, where others want the machine too
    params.port = 0
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve()
