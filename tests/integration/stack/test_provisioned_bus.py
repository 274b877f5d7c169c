"""The generated configuration on a real nats-server: who gets in, and what they may do."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from support.nats_server import NatsServer, running_nats, settle

from aios_proto.permissions import ROLES


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path / "nats") as running:
        yield running


class Violations:
    """Collects what the bus refuses to one client."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[str] = asyncio.Queue()

    async def note(self, error: Exception) -> None:
        self.seen.put_nowait(str(error).lower())

    async def next(self) -> str:
        return await asyncio.wait_for(self.seen.get(), 5)


async def test_every_service_gets_in_with_its_key(server: NatsServer) -> None:
    for role in ROLES:
        client = await server.connect(role)
        await client.flush(5)
        await client.close()


async def test_a_stranger_without_credentials_is_refused(server: NatsServer) -> None:
    reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1])), 5)
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"INFO ")
    writer.write(b'CONNECT {"verbose":false,"protocol":1}\r\nSUB > 1\r\nPING\r\n')
    answer = await asyncio.wait_for(reader.read(), 10)  # until the server hangs up
    assert b"PONG" not in answer
    assert b"-ERR 'Authorization Violation'" in answer or b"-ERR 'Authentication Timeout'" in answer
    writer.close()
    await writer.wait_closed()


async def test_a_worker_may_report_but_not_command_workers(server: NatsServer) -> None:
    refused = Violations()
    worker = await server.connect("llm", error_cb=refused.note)
    scheduler = await server.connect("scheduler")
    reports = await scheduler.subscribe("aios.k.scheduler.report.*.*")
    await settle(scheduler)
    await worker.publish("aios.k.scheduler.report.default.w1", b"here")
    assert (await reports.next_msg(5)).data == b"here"
    await worker.publish("aios.k.llm.default.w2.run", b"mine")
    assert "aios.k.llm.default.w2.run" in await refused.next()
    await _close(worker, scheduler)


async def test_a_service_cannot_read_system_calls_or_answer_the_auth_callout(server: NatsServer) -> None:
    refused = Violations()
    client = await server.connect("tool", error_cb=refused.note)
    for subject in ("aios.sys.>", "$SYS.REQ.USER.AUTH", "_INBOX.>", ">"):
        await client.subscribe(subject)
        assert "subscription" in await refused.next()
    await _close(client)


async def test_only_access_may_cut_connections(server: NatsServer) -> None:
    refused = Violations()
    scheduler = await server.connect("scheduler", error_cb=refused.note)
    access = await server.connect("access")
    subject = f"$SYS.REQ.SERVER.{access._server_info['server_id']}.KICK"
    await scheduler.publish(subject, b"{}")
    assert ".kick" in await refused.next()

    cut = asyncio.Event()

    async def closed() -> None:
        cut.set()

    victim = await server.connect("memory", closed_cb=closed, allow_reconnect=False, error_cb=Violations().note)
    await access.request(subject, json.dumps({"cid": victim.client_id}).encode(), timeout=5)
    await asyncio.wait_for(cut.wait(), 5)
    await _close(scheduler, access)


async def test_access_and_scheduler_share_the_durable_stream(server: NatsServer) -> None:
    access, scheduler = await server.connect("access"), await server.connect("scheduler")
    jetstream = scheduler.jetstream(timeout=5)
    await jetstream.add_stream(name="AIOS_SYSCALLS", subjects=["aios.q.>"])
    acknowledged = await access.jetstream(timeout=5).publish("aios.q.llm.chat", b"{}")
    assert acknowledged.seq == 1
    subscription = await jetstream.pull_subscribe("aios.q.>", durable="scheduler", stream="AIOS_SYSCALLS")
    (message,) = await subscription.fetch(1, timeout=5)
    await message.ack_sync(timeout=5)
    bucket = await access.jetstream(timeout=5).create_key_value(bucket="AIOS_AGENTS")
    await bucket.put("default.operator", b"{}")
    assert (await bucket.get("default.operator")).value == b"{}"
    await _close(access, scheduler)


async def test_clients_come_back_after_a_restart_on_the_same_ports(server: NatsServer) -> None:
    back = asyncio.Event()

    async def reconnected() -> None:
        back.set()

    client = await server.connect("scheduler", reconnected_cb=reconnected, error_cb=Violations().note)
    await client.jetstream(timeout=5).add_stream(name="AIOS_SYSCALLS", subjects=["aios.q.>"])
    url = server.url
    server.restart()
    assert server.url == url
    await asyncio.wait_for(back.wait(), 10)
    assert (await client.jetstream(timeout=5).stream_info("AIOS_SYSCALLS")).config.name == "AIOS_SYSCALLS"
    await _close(client)


async def _close(*clients: Client) -> None:
    for client in clients:
        await client.close()
