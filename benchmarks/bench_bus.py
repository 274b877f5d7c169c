"""A provisioned bus for measurements of access, with one user more: it may speak for all agents on one connection."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aios_stack.keys import generate
from aios_stack.nats_config import render
from aios_stack.provision import Credentials, local_node, provision_credentials
from aios_stack.secret_files import SecretFiles
from aios_stack.topology import nats_server

BARE_IN: Final = "aios.evt.bench.in"
BARE_OUT: Final = "aios.evt.bench.out"

_START_S = 20.0


@dataclass(frozen=True)
class BenchBus:
    """A running server.

    Attributes:
        url: where clients connect.
        seed: nkey seed file of the user who may do everything on the account of the services.
        credentials: of the installation.
    """

    url: str
    seed: Path
    credentials: Credentials


@contextlib.contextmanager
def running_bench_bus() -> Iterator[BenchBus]:
    """A server in a folder of its own, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as name:
        folder = Path(name)
        credentials = provision_credentials(SecretFiles(folder / "secrets"))
        user = generate("user")
        seed = folder / "bench.nk"
        seed.write_text(user.seed)
        node = local_node(credentials, folder / "jetstream", port=-1, monitor_port=-1, ports_file_dir=folder)
        text = render(node).replace("users: [", f"users: [\n      {{ nkey: {user.public} }}", 1)
        text = text.replace("auth_users: [", f'auth_users: ["{user.public}", ', 1)
        (folder / "server.conf").write_text(text)
        process = subprocess.Popen([nats_server(), "-c", str(folder / "server.conf")], stderr=subprocess.DEVNULL)
        try:
            yield BenchBus(_url(folder, process), seed, credentials)
        finally:
            process.kill()
            process.wait(10)


@contextlib.contextmanager
def running_access(bus: BenchBus, instance: str, env: dict[str, str] | None = None) -> Iterator[int]:
    """One replica of access; yields its process id once it is ready."""
    port_file = Path(tempfile.mkdtemp()) / "log"
    with port_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "aios_access"],
            stderr=log,
            env={
                **os.environ,
                "AIOS_NATS_URL": bus.url,
                "AIOS_NATS_NKEY_FILE": str(bus.credentials.seeds["access"]),
                "AIOS_INSTANCE": instance,
                "AIOS_ACCESS_ISSUER_FILE": str(bus.credentials.issuer_seed),
                "AIOS_ACCESS_XKEY_FILE": str(bus.credentials.xkey_seed),
                "AIOS_ACCESS_BOOTSTRAP_FILE": str(bus.credentials.bootstrap_agents),
                **(env or {}),
            },
        )
    try:
        _wait_ready(port_file, process)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def running_bare_hop(bus: BenchBus) -> Iterator[int]:
    """The bare hop; yields its process id once it listens."""
    script = Path(__file__).with_name("bare_hop.py")
    process = subprocess.Popen([sys.executable, str(script), bus.url, str(bus.seed)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def _url(folder: Path, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + _START_S
    while not (found := list(folder.glob("*.ports"))) or not found[0].read_text().strip():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the bus did not start")
        time.sleep(0.01)
    url: str = json.loads(found[0].read_text())["nats"][0]
    return url


def _wait_ready(log: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    port = 0
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                port = json.loads(line).get("http_port", port)
        with contextlib.suppress(OSError):
            if port and urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).status == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"access did not start:\n{log.read_text()}")
