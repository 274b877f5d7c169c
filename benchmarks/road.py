"""The real services on this machine, as `aios up` starts them, for the length of a measurement."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aios_stack.data_folder import DataFolder

BENCHMARKS = Path(__file__).parent


@dataclass(frozen=True)
class Road:
    """A running stack."""

    url: str
    token: str
    otlp_endpoint: str
    folder: Path


@contextlib.contextmanager
def running_road(*up_options: str, env: dict[str, str] | None = None) -> Iterator[Road]:
    """A stack in a folder of its own, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as name:
        folder = DataFolder.find(Path(name))
        command = [sys.executable, "-m", "aios._cli", "up", "--data", name, *up_options]
        up = subprocess.run(command, check=False, env={**os.environ, **(env or {})}, stderr=subprocess.PIPE, text=True)
        if up.returncode:
            raise RuntimeError(f"the stack did not start:\n{up.stderr}")
        try:
            state = folder.read_state()
            if state is None:
                raise RuntimeError("the stack left no state")
            yield Road(state.url, folder.operator_token.read_text().strip(), state.otlp_endpoint, folder.path)
        finally:
            subprocess.run(
                [sys.executable, "-m", "aios._cli", "down", "--data", name], check=False, capture_output=True
            )


@contextlib.contextmanager
def running_instant_tgi() -> Iterator[str]:
    """The instant HTTP engine in a process of its own; yields its base URL."""
    process = subprocess.Popen([sys.executable, str(BENCHMARKS / "instant_tgi.py")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(10)
