"""Two writers of one audit log far from the bus: whoever stored the last batch does not go on to store all of them."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from support.frame_inbox import connect_once
from support.nats_server import running_open_nats

from aios_access.adapters.audit_stream import AuditWriter, _Chain, audit_stream, open_audit_stream, read_batches
from aios_kit.logs import setup_logging
from aios_kit.settings import ServiceSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ONE_WAY_S = 0.02
TENANT = "acme"
WANTED = 10
MOST_IN_A_ROW = 10
"""Batches lost in a row: 4 as measured; 72 and more where nobody lets others go first."""


@contextlib.asynccontextmanager
async def far_away(port: int) -> AsyncIterator[str]:
    """The address of a bus from which every byte takes `ONE_WAY_S`."""
    loop = asyncio.get_running_loop()
    pumps: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                loop.call_later(ONE_WAY_S, target.write, data)
        await asyncio.sleep(2 * ONE_WAY_S)
        target.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_bus, to_bus = await asyncio.open_connection("127.0.0.1", port)
        for source, target in ((reader, to_bus), (from_bus, writer)):
            task = asyncio.create_task(pump(source, target))
            pumps.add(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*pumps), 20)


class CountingWriter(AuditWriter):
    """Counts how often in a row it was overtaken."""

    most_in_a_row = 0

    async def _write_batch(self, tenant: str, chain: _Chain) -> None:
        await super()._write_batch(tenant, chain)
        self.most_in_a_row = max(self.most_in_a_row, chain.overtaken)


@contextlib.asynccontextmanager
async def writer(url: str, name: str) -> AsyncIterator[CountingWriter]:
    """A writer with a connection of its own, told by the others when they are overtaken."""
    nc = await connect_once(url)

    async def say(tenant: str) -> None:
        await nc.publish("overtaken", f"{name} {tenant}".encode())

    log = setup_logging("access", ServiceSettings(), io.StringIO())
    made = CountingWriter(nc.jetstream(timeout=10), None, log, linger_s=0.05, capacity=100_000, say_overtaken=say)

    async def heard(message: Msg) -> None:
        by, _, tenant = message.data.decode().partition(" ")
        if by != name:
            made.let_others_first(tenant)

    await nc.subscribe("overtaken", cb=heard)
    made.open()
    yield made
    await made.close(20)
    await nc.close()


async def test_a_writer_with_little_to_write_has_its_turns_beside_one_that_always_writes(tmp_path: Path) -> None:
    with running_open_nats(tmp_path) as server:
        async with (
            far_away(int(server.url.rsplit(":", 1)[1])) as url,
            writer(url, "busy") as busy,
            writer(url, "quiet") as quiet,
        ):
            nc = await server.connect()
            log = setup_logging("access", ServiceSettings(), io.StringIO())
            await open_audit_stream(nc.jetstream(), audit_stream(1, 0), log)
            done = asyncio.Event()

            async def keep_writing() -> None:
                while not done.is_set():
                    busy.record(TENANT, {"kind": "decision", "by": "busy"})
                    await asyncio.sleep(0.002)

            writing = asyncio.create_task(keep_writing())
            async with asyncio.timeout(90):
                await busy.stored(TENANT)
                for _ in range(WANTED):
                    quiet.record(TENANT, {"kind": "decision", "by": "quiet"})
                    await quiet.stored(TENANT)
                    await busy.stored(TENANT)  # which is the one that knows the head again
            done.set()
            await writing
            await busy.stored(TENANT)
            assert max(busy.most_in_a_row, quiet.most_in_a_row) <= MOST_IN_A_ROW
            lines = b"".join([batch.lines async for batch in read_batches(nc.jetstream(timeout=10), TENANT)])
            assert lines.count(b'"by":"quiet"') == WANTED
            await nc.close()
