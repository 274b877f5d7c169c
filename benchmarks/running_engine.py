"""The CPU engine in a process of its own, for the length of a measurement."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

START_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class RunningEngine:
    """A ready engine."""

    url: str
    process: "subprocess.Popen[bytes]"


@contextlib.contextmanager
def running_engine(**settings: str) -> Iterator[RunningEngine]:
    """An engine on a free port; keywords are its settings without their prefix, in small letters."""
    port = free_port()
    env = {f"AIOS_ENGINE_{name.upper()}": value for name, value in settings.items()}
    env |= {"AIOS_ENGINE_PORT": str(port), "AIOS_LOG_LEVEL": "warning"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIOS_", "OTEL_"))}
    process = subprocess.Popen([sys.executable, "-m", "aios_engine"], env={**inherited, **env})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_answers(f"{url}/health", process)
        yield RunningEngine(url, process)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_until_answers(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Returns when a process that was started answers 200.

    Raises:
        RuntimeError: it ended, or did not in time.
    """
    until = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"what should answer at {url} did not start; its log says why") from None
            time.sleep(0.2)  # HTTP has no way to be told
