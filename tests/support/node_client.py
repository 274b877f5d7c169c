"""The Node.js client of `tests/clients/node`: installed once, run as a process."""

import fcntl
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "clients" / "node"
INSTALL_TIMEOUT_S = 300
RUN_TIMEOUT_S = 90


@dataclass(frozen=True, slots=True)
class NodeResult:
    """How a script ended: its exit status and the JSON it printed."""

    status: int
    output: Any


@dataclass(frozen=True, slots=True)
class NodeClient:
    """Runs the scripts of `tests/clients/node`, with `environment` in theirs."""

    node: str
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, script: str, *arguments: str, **environment: str) -> NodeResult:
        """Runs one script; what it prints must be JSON."""
        finished = subprocess.run(
            [self.node, script, *arguments],
            cwd=FOLDER,
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        assert finished.stdout.strip(), finished.stderr
        return NodeResult(finished.returncode, json.loads(finished.stdout))


def installed_node_client() -> NodeClient:
    """The client with its packages in place; skips the test where there is no Node.js or the packages cannot be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    lock = FOLDER / "package-lock.json"
    done = FOLDER / "node_modules" / ".installed"
    with (FOLDER / "package.json").open() as only_one_at_a_time:
        fcntl.flock(only_one_at_a_time, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != lock.read_text():
            installing = subprocess.run(
                [npm, "ci", "--no-audit", "--no-fund"],
                cwd=FOLDER,
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT_S,
                check=False,
            )
            if installing.returncode != 0:
                pytest.skip(f"npm ci failed, perhaps without a network: {installing.stderr.strip()[-300:]}")
            done.write_text(lock.read_text())
    return NodeClient(node)
