"""A call sent on the short way arrives as the client itself would have sent it."""

import asyncio
from pathlib import Path

import pytest
from nats.errors import ConnectionClosedError
from support.nats_server import running_open_nats

from aios_kit.call_sender import CallSender

HEADERS = {"Aios-Id": "1", "Aios-Reply": "_INBOX.a.b.1", "tracestate": "a=b: ü", "Aios-Group": ""}
TEXT = "\r\n".join(f"{name}: {value}" for name, value in HEADERS.items())


async def test_another_client_reads_headers_and_body(tmp_path: Path) -> None:
    with running_open_nats(tmp_path) as server:
        nc, other = await server.connect(), await server.connect()
        subscription = await other.subscribe("x.y")
        await other.flush()
        sender = CallSender(nc)
        for number in range(300):  # more than fit between two yields
            await sender.send("x.y", TEXT, b"\r\nbody %d\r\n" % number)
        for number in range(300):
            message = await subscription.next_msg(5)
            assert (message.headers, message.data) == (HEADERS, b"\r\nbody %d\r\n" % number)
        await nc.close()
        await other.close()


async def test_what_is_sent_while_the_bus_is_away_arrives_later(tmp_path: Path) -> None:
    with running_open_nats(tmp_path) as server:
        lost = asyncio.Event()

        async def disconnected() -> None:
            lost.set()

        nc = await server.connect(disconnected_cb=disconnected)
        subscription = await nc.subscribe("x")
        await nc.flush()
        server.kill()
        await asyncio.wait_for(lost.wait(), 20)
        await CallSender(nc).send("x", TEXT, b"body")
        server.restart()
        message = await subscription.next_msg(20)
        assert (message.headers, message.data) == (HEADERS, b"body")
        await nc.close()
        with pytest.raises(ConnectionClosedError):
            await CallSender(nc).send("x", TEXT, b"body")
