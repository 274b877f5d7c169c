"""A bus of three nodes for one test, as `aios provision` configures it, each on a loopback address of its own."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.aio.client import Client
from support.nats_server import nats_server_path

from aios_proto.permissions import Role
from aios_proto.subjects import service_inbox_prefix
from aios_stack.ports import choose_ports
from aios_stack.provision import ClusterLayout, provision_nodes

NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@dataclass
class NatsCluster:
    """The running nodes.

    Attributes:
        folder: holds configurations, logs, secrets and stores.
        urls: where clients connect, by node.
    """

    folder: Path
    urls: dict[str, str]
    _processes: dict[str, "subprocess.Popen[bytes]"]

    async def connect(self, role: Role) -> Client:
        """A client as a kernel service, at whichever node lives."""

        async def quiet(_: Exception) -> None: ...

        return await nats.connect(
            list(self.urls.values()),
            nkeys_seed=str(self.folder / "secrets" / f"{role}.nk"),
            inbox_prefix=service_inbox_prefix(role).encode(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            connect_timeout=5,
            error_cb=quiet,
        )

    def kill(self, node: str) -> None:
        """Ends a node as a crash would."""
        self._processes[node].kill()
        self._processes[node].wait(10)


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[NatsCluster]:
    """Three nodes until the block ends."""
    ports = choose_ports(["client", "monitor", "route"], {})
    layout = ClusterLayout(NODES, client_port=ports["client"], monitor_port=ports["monitor"], route_port=ports["route"])
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with contextlib.ExitStack() as stack:
        for name, path in provision_nodes(folder, layout).items():
            text = path.read_text().replace("0.0.0.0", name).replace("/data/jetstream", str(folder / "data" / name))
            path.write_text(text)
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen([nats_server_path(), "-c", str(path)], stdout=log, stderr=log)
            processes[name] = process
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
        yield NatsCluster(folder, {name: f"nats://{name}:{ports['client']}" for name in NODES}, processes)
