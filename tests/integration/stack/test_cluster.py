"""Three nodes from `aios provision` form one cluster, with replicated streams and the same users on each."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError
from support.nats_server import nats_server_path

from aios_proto.permissions import Role
from aios_proto.subjects import service_inbox_prefix
from aios_proto.tls import client_context
from aios_stack.certificates import CertificateFiles
from aios_stack.ports import choose_ports
from aios_stack.provision import ClusterLayout, provision_nodes

NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@pytest.fixture(params=[False, True], ids=["in clear", "over TLS"])
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """URLs of three nodes, each on a loopback address of its own."""
    ports = choose_ports(["client", "monitor", "route"], {})
    layout = ClusterLayout(
        NODES,
        client_port=ports["client"],
        monitor_port=ports["monitor"],
        route_port=ports["route"],
        tls_dir=str(tmp_path / "secrets") if request.param else None,
    )
    with contextlib.ExitStack() as stack:
        for name, path in provision_nodes(tmp_path, layout).items():
            text = path.read_text().replace("0.0.0.0", name).replace("/data/jetstream", str(tmp_path / "data" / name))
            path.write_text(text)
            log = stack.enter_context((tmp_path / f"{name}.log").open("wb"))
            process = subprocess.Popen([nats_server_path(), "-c", str(path)], stdout=log, stderr=log)
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
        yield [f"nats://{name}:{ports['client']}" for name in NODES]


async def connect(url: str, role: Role, tmp_path: Path) -> Client:
    files = CertificateFiles.of("service", tmp_path / "secrets")
    return await nats.connect(
        url,
        nkeys_seed=str(tmp_path / "secrets" / f"{role}.nk"),
        inbox_prefix=service_inbox_prefix(role).encode(),
        max_reconnect_attempts=100,
        reconnect_time_wait=0.1,
        connect_timeout=2,
        tls=client_context(files.ca, files.cert, files.key) if files.cert.exists() else None,
    )


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_three_nodes_replicate_and_share_their_users(cluster: list[str], tmp_path: Path) -> None:
    scheduler = await connect(cluster[0], "scheduler", tmp_path)
    access = await connect(cluster[2], "access", tmp_path)
    try:
        await replicate(scheduler, access)
    finally:
        await scheduler.close()
        await access.close()


async def replicate(scheduler: Client, access: Client) -> None:
    jetstream = scheduler.jetstream(timeout=2)
    while True:  # until the cluster has chosen its leader, which it announces to nobody
        try:
            info = await jetstream.add_stream(name="AIOS_SYSCALLS", subjects=["aios.q.>"], num_replicas=3)
            break
        except (APIError, ServiceUnavailableError, nats.errors.TimeoutError, nats.errors.NoRespondersError):
            await scheduler.flush(5)
    assert info.config.num_replicas == 3
    assert info.cluster is not None
    assert info.cluster.name == "aios"
    while True:  # until the third node has heard that somebody takes this subject
        try:
            acknowledged = await access.jetstream(timeout=5).publish("aios.q.llm.chat", b"{}")
            break
        except NoStreamResponseError:
            await access.flush(5)
    assert acknowledged.seq == 1
