"""What the hot path does with a handler that fails, a stream that is long, and a bus that is gone."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from structlog.testing import capture_logs
from support.nats_server import NatsServer, settle

from aios_kit.lane import Lane
from aios_kit.logs import Log


@pytest.fixture
async def nc(shared_bus: NatsServer) -> AsyncIterator[Client]:
    client = await shared_bus.connect()
    yield client
    await client.close()


def log() -> Log:
    logger: Log = structlog.stdlib.get_logger("test")
    return logger


async def test_a_handler_that_raises_is_logged_and_the_next_message_is_handled(nc: Client) -> None:
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(message: Msg) -> None:
        if message.data == b"bad":
            raise ValueError("bad luck")
        seen.put_nowait(message.data)

    with capture_logs() as logs:
        lane = Lane(nc, log())
        await lane.subscribe("lane.one", handler)
        for body in (b"bad", b"good", b"bad", b"better"):
            await lane.publish("lane.one", body)
        assert [await asyncio.wait_for(seen.get(), 10) for _ in range(2)] == [b"good", b"better"]
    assert [(line["event"], line["subject"]) for line in logs] == [("message handler failed", "lane.one")] * 2


async def test_headers_body_and_reply_arrive_as_sent(nc: Client) -> None:
    seen: asyncio.Queue[Msg] = asyncio.Queue()

    async def handler(message: Msg) -> None:
        seen.put_nowait(message)

    lane = Lane(nc, log())
    await lane.subscribe("lane.two", handler)
    await lane.publish("lane.two", b"\x00\xff{", headers={"Aios-Id": "1"}, reply="lane.answer")
    message = await asyncio.wait_for(seen.get(), 10)
    assert (message.data, message.headers, message.reply) == (b"\x00\xff{", {"Aios-Id": "1"}, "lane.answer")


async def test_a_long_stream_lets_others_run(nc: Client) -> None:
    lane = Lane(nc, log())
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    background = asyncio.create_task(other())
    for _ in range(160):
        await lane.publish("lane.nobody", b"token")
    background.cancel()
    assert turns >= 10


async def test_members_of_a_queue_group_share_the_messages(shared_bus: NatsServer, nc: Client) -> None:
    seen: asyncio.Queue[int] = asyncio.Queue()
    second = await shared_bus.connect()
    lanes = [Lane(nc, log()), Lane(second, log())]

    for number, lane in enumerate(lanes):

        async def handler(message: Msg, number: int = number) -> None:
            seen.put_nowait(number)

        await lane.subscribe("lane.shared", handler, queue="group")
    await settle(second)
    for _ in range(50):
        await nc.publish("lane.shared", b"")
    took = [await asyncio.wait_for(seen.get(), 10) for _ in range(50)]
    assert set(took) == {0, 1}
    assert seen.empty()
    await second.close()


async def test_draining_handles_what_was_delivered_and_nothing_after(nc: Client) -> None:
    gate, seen = asyncio.Event(), []

    async def handler(message: Msg) -> None:
        await gate.wait()
        seen.append(message.data)

    lane = Lane(nc, log())
    await lane.subscribe("lane.drained", handler)
    for number in range(5):
        await nc.publish("lane.drained", b"%d" % number)
    await settle(nc)
    draining = asyncio.create_task(lane.drain())
    await settle(nc)
    await nc.publish("lane.drained", b"late")
    await settle(nc)
    gate.set()
    await asyncio.wait_for(draining, 10)
    await settle(nc)
    assert seen == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_reply_that_cannot_be_sent_is_lost_with_a_warning_only(shared_bus: NatsServer) -> None:
    client = await shared_bus.connect()
    with capture_logs() as logs:
        lane = Lane(client, log())
        await lane.reply("", b"nobody asked")
        await client.close()
        await lane.reply("lane.answer", b"frame")
        await lane.drain()
    assert [line["event"] for line in logs] == ["a reply frame was lost"]
