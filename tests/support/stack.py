"""A whole running system, as `aios up` starts it, in the hands of a test."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil
from support.otlp_sink import OtlpSink

from aios_stack.data_folder import DataFolder, StackState


@dataclass
class Stack:
    """A running system.

    Attributes:
        folder: its data folder.
        sink: gets a copy of every span.
    """

    folder: DataFolder
    sink: OtlpSink

    @property
    def state(self) -> StackState:
        state = self.folder.read_state()
        assert state is not None
        return state

    @property
    def operator_token(self) -> str:
        return self.folder.operator_token.read_text().strip()

    def process(self, name: str) -> psutil.Process:
        """One of its processes, by the name `aios ps` shows."""
        pid = next(process.pid for process in self.state.processes if process.name == name)
        assert pid is not None
        return psutil.Process(pid)

    def aios(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs an `aios` command against it."""
        return subprocess.run(
            [sys.executable, "-m", "aios._cli", *arguments],
            env={**os.environ, "AIOS_DATA": str(self.folder.path)},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def wait_until_ready(self, timeout_s: float = 60) -> None:
        """Waits until every process is ready again; blocks, so call it off the loop."""
        until = time.monotonic() + timeout_s
        while not self.state.ready:
            assert time.monotonic() < until, self.state.summary
            time.sleep(0.1)  # the state is a file: nothing tells of its changes
