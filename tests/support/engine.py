"""A real engine process for tests: `python -m aios_engine` on the default model, requantised once into a shared cache.

The first use on a machine requantises (about 15 s); after that an engine is ready in about 2 s.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0


@dataclass
class EngineProcess:
    """A started engine.

    Attributes:
        process: the child.
        log: its lines so far.
    """

    process: "subprocess.Popen[str]"
    log: list[str] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _ended: bool = False

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end; known once it listens."""
        return self.wait_for_log("listening on ").rsplit(" ", 1)[-1]

    def wait_for_log(self, text: str, timeout_s: float = START_TIMEOUT_S) -> str:
        """Waits for a line of its log that has `text`, and returns it."""

        def found() -> str | None:
            return next((line for line in self.log if text in line), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self._ended, timeout_s)
        line = found()
        assert line is not None, f"the engine did not say {text!r}:\n" + "\n".join(self.log)
        return line

    def wait_until_ready(self) -> None:
        """Waits until generations work."""
        self.wait_for_log(" ready")

    def terminate(self) -> None:
        """Asks it to stop (SIGTERM)."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Waits for its end and returns its exit status."""
        return self.process.wait(timeout_s)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.log.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@contextmanager
def engine_process(
    env: Mapping[str, str] | None = None, *, cache_dir: Path | None = None, flags: tuple[str, ...] = ()
) -> Iterator[EngineProcess]:
    """Starts an engine on a free port, not yet ready, and ends it.

    Args:
        env: beside or instead of the defaults, such as `AIOS_ENGINE_MAX_SEQUENCES`.
        cache_dir: of requantised models; None is the user's cache, which runs share.
        flags: on the command line.
    """
    # Small: tests use short prompts, and several engines may run side by side.
    settings = {"AIOS_ENGINE_PORT": "0", "AIOS_ENGINE_N_CTX": "1024", "AIOS_ENGINE_MAX_SEQUENCES": "6", **(env or {})}
    if cache_dir is not None:
        settings["AIOS_ENGINE_CACHE_DIR"] = str(cache_dir)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIOS_", "OTEL_"))}
    if "AIOS_ENGINE_CACHE_DIR" in os.environ:
        inherited["AIOS_ENGINE_CACHE_DIR"] = os.environ["AIOS_ENGINE_CACHE_DIR"]
    process = subprocess.Popen(
        [sys.executable, "-m", "aios_engine", *flags],
        env={**inherited, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry), **settings},
        stderr=subprocess.PIPE,
        text=True,
    )
    engine = EngineProcess(process)
    reader = threading.Thread(target=engine._read, daemon=True)
    reader.start()
    try:
        yield engine
    finally:
        if process.poll() is None:
            engine.terminate()
            try:
                engine.wait()
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()


@contextmanager
def running_engine(
    env: Mapping[str, str] | None = None, *, cache_dir: Path | None = None, flags: tuple[str, ...] = ()
) -> Iterator[str]:
    """Starts an engine, waits until it is ready, and gives its base URL."""
    with engine_process(env, cache_dir=cache_dir, flags=flags) as engine:
        engine.wait_until_ready()
        yield engine.url
