"""A bus that speaks TLS lets in who shows a certificate of its own authority, and nobody else."""

import asyncio
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from support.nats_server import NatsServer
from support.running_service import running_process

from aios import Agent
from aios_proto import tls
from aios_proto.errors import BusUnavailable
from aios_proto.subjects import service_inbox_prefix
from aios_proto.tls import client_context
from aios_stack.certificates import BusCertificates, CertificateFiles, provision_certificates
from aios_stack.nats_config import render
from aios_stack.provision import local_node, provision_credentials
from aios_stack.secret_files import SecretFiles
from aios_stack.topology import tls_environment

pytestmark = pytest.mark.timeout(60)


@dataclass
class TlsBus:
    server: NatsServer
    certificates: BusCertificates


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[TlsBus]:
    secrets = SecretFiles(tmp_path / "secrets")
    credentials, certificates = provision_credentials(secrets), provision_certificates(secrets)
    node = local_node(
        credentials,
        tmp_path / "jetstream",
        port=-1,
        monitor_port=-1,
        ports_file_dir=tmp_path / "ports",
        tls=certificates.server,
    )
    (tmp_path / "server.conf").write_text(render(node))
    server = NatsServer(tmp_path, credentials)
    server.start()
    try:
        yield TlsBus(server, certificates)
    finally:
        server.kill()


async def connect(bus: TlsBus, context: ssl.SSLContext) -> Client:
    async def quiet(_: Exception) -> None: ...

    client = Client()
    await client.connect(
        bus.server.url,
        nkeys_seed=str(bus.server.seed_file("memory")),
        inbox_prefix=service_inbox_prefix("memory").encode(),
        tls=context,
        allow_reconnect=False,
        connect_timeout=5,
        error_cb=quiet,
    )
    return client


async def refused(bus: TlsBus, context: ssl.SSLContext) -> None:
    async def arrive() -> None:
        client = await connect(bus, context)
        await client.flush(5)

    with pytest.raises((NatsError, OSError, TimeoutError)):
        await arrive()


async def test_a_client_with_a_certificate_of_the_authority_gets_in(bus: TlsBus) -> None:
    files = bus.certificates.service
    client = await connect(bus, client_context(files.ca, files.cert, files.key))
    await client.flush(5)
    await client.close()


async def test_a_client_without_a_certificate_is_refused_though_its_nkey_is_right(bus: TlsBus) -> None:
    await refused(bus, client_context(bus.certificates.service.ca))


async def test_a_certificate_of_another_authority_is_refused(bus: TlsBus, tmp_path: Path) -> None:
    other = provision_certificates(SecretFiles(tmp_path / "other")).service
    await refused(bus, client_context(bus.certificates.service.ca, other.cert, other.key))


async def test_a_client_that_trusts_another_authority_does_not_go_on(bus: TlsBus, tmp_path: Path) -> None:
    other = provision_certificates(SecretFiles(tmp_path / "other")).service
    own = bus.certificates.service
    await refused(bus, client_context(other.ca, own.cert, own.key))


async def test_the_certificate_of_the_server_is_not_one_for_clients(bus: TlsBus) -> None:
    files = bus.certificates.server
    await refused(bus, client_context(files.ca, files.cert, files.key))


async def test_what_crosses_the_wire_in_clear_is_not_answered(bus: TlsBus) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(bus.server.url.rsplit(":", 1)[1]))
    info = json.loads((await asyncio.wait_for(reader.readline(), 10)).removeprefix(b"INFO "))
    assert info["tls_required"]
    assert info["tls_verify"]
    writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
    assert b"PONG" not in await asyncio.wait_for(reader.read(), 20)
    writer.close()


async def test_a_service_and_an_agent_meet_on_it_and_an_agent_without_a_certificate_does_not(
    bus: TlsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (tls.CA, tls.CERT, tls.KEY):
        monkeypatch.delenv(name, raising=False)
    credentials = bus.server.credentials
    assert credentials is not None
    env = {
        "AIOS_ACCESS_ISSUER_FILE": str(credentials.issuer_seed),
        "AIOS_ACCESS_XKEY_FILE": str(credentials.xkey_seed),
        "AIOS_ACCESS_BOOTSTRAP_FILE": str(credentials.bootstrap_agents),
        **tls_environment(bus.certificates.service),
    }
    token = bus.server.operator_token
    async with running_process("aios_access", bus.server, "access", env):
        files = bus.certificates.agent
        monkeypatch.setenv(tls.CA, str(files.ca))
        with pytest.raises(BusUnavailable):
            async with Agent(token=token, url=bus.server.url, connect_timeout_s=3):
                pass
        for name, value in tls_environment(files).items():
            monkeypatch.setenv(name, value)
        async with Agent(token=token, url=bus.server.url) as agent:
            assert (await agent.whoami()).agent == "operator"


def test_certificates_are_kept_until_they_end_or_the_hosts_change(tmp_path: Path) -> None:
    def made(*hosts: str) -> tuple[str, ...]:
        found = provision_certificates(SecretFiles(tmp_path), hosts)
        files: list[CertificateFiles] = [found.server, found.service, found.agent]
        return tuple(each.cert.read_text() for each in files)

    first = made("127.0.0.1", "localhost")
    assert made("127.0.0.1", "localhost") == first
    moved = made("bus.example")
    assert moved[0] != first[0]
    assert moved[1:] == first[1:]
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
