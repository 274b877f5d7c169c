"""One project of `docker compose`: its commands with their time limits, and what they say when they fail."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD_TIMEOUT_S = 1500
UP_TIMEOUT_S = 600
COMMAND_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Compose:
    """A project by its name and files, relative to the repository's root."""

    project: str
    files: tuple[str, ...]

    def up(self) -> None:
        """Builds what is ours and starts everything; returns when all is healthy."""
        self.run("build", timeout_s=BUILD_TIMEOUT_S)
        try:
            self.run("up", "--wait", "--no-build", "--wait-timeout", str(UP_TIMEOUT_S), timeout_s=UP_TIMEOUT_S + 60)
        except AssertionError:
            sys.stderr.write(self.run("logs", "--tail", "40"))
            raise

    def down(self) -> None:
        """Removes the project with its volumes."""
        self.run("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "20")

    def run(self, *arguments: str, input: str | None = None, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """One command; gives its standard output and fails with what it wrote to standard error."""
        finished = subprocess.run(
            [
                "docker",
                "compose",
                "-p",
                self.project,
                *(part for file in self.files for part in ("-f", file)),
                *arguments,
            ],
            cwd=ROOT,
            # Any free port, so that an installation that runs already is not disturbed.
            env={**os.environ, "AIOS_NATS_PORT": "0", "AIOS_NATS_2_PORT": "0", "AIOS_NATS_3_PORT": "0"}
            | {"AIOS_OTLP_PORT": "0", "AIOS_JAEGER_PORT": "0"},
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert finished.returncode == 0, f"docker compose {' '.join(arguments)}: {finished.stderr[-4000:]}"
        return finished.stdout

    def start(self, service: str) -> None:
        """Starts a service's containers again; returns when they are healthy."""
        self.run("up", "--wait", "--no-build", "--no-recreate", "--no-deps", service)

    def exec(self, service: str, *command: str) -> str:
        """Runs a command in a service's container."""
        return self.run("exec", "-T", service, *command)

    def containers(self) -> list[dict[str, Any]]:
        """All containers, also those that have ended, as `docker compose ps` tells them."""
        return [json.loads(line) for line in self.run("ps", "--all", "--format", "json").splitlines()]

    def address(self, service: str, port: int) -> str:
        """Where a container's port is reached from here, `host:port`."""
        return self.run("port", service, str(port)).strip()
