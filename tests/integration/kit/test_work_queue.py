"""What the reader of a durable queue sees: everything that is open, in order, once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StreamConfig
from structlog.testing import capture_logs
from support.nats_server import NatsServer

from aios_kit.logs import Log
from aios_kit.work_queue import WorkQueue

STREAM = "JOBS"


def stream(name: str = STREAM) -> StreamConfig:
    return StreamConfig(name=name, subjects=[f"{name.lower()}.>"], retention=RetentionPolicy.WORK_QUEUE)


@dataclass
class Reader:
    """One reader and what it has seen."""

    nc: Client
    queue: WorkQueue
    seen: list[str] = field(default_factory=list)
    messages: list[Msg] = field(default_factory=list)
    replaced: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def saw(self, count: int, timeout_s: float = 15) -> list[str]:
        """What it has seen, once that is so much."""
        try:
            async with asyncio.timeout(timeout_s), self.news:
                await self.news.wait_for(lambda: len(self.seen) >= count)
        except TimeoutError:
            raise AssertionError(f"saw {len(self.seen)} of {count}: {self.seen[-5:]}") from None
        return self.seen


Handle = Callable[[Msg], Awaitable[None]]
MakeReader = Callable[..., Awaitable[Reader]]


@pytest.fixture
async def js(own_bus: NatsServer) -> AsyncIterator[JetStreamContext]:
    async def quiet(_: Exception) -> None: ...

    nc = await own_bus.connect(error_cb=quiet, reconnect_time_wait=0.05)
    context = nc.jetstream()
    await context.add_stream(stream())
    yield context
    await nc.close()


@pytest.fixture
async def reader(own_bus: NatsServer, js: JetStreamContext) -> AsyncIterator[MakeReader]:
    made: list[Reader] = []
    log: Log = structlog.stdlib.get_logger("test")

    async def quiet(_: Exception) -> None: ...

    async def make(handle: Handle | None = None, *, start: bool = True) -> Reader:
        async def reconnected() -> None:
            regaining.append(asyncio.create_task(regain()))

        async def regain() -> None:
            while True:  # as `Service` does
                try:
                    await queue.resume()
                except Exception:
                    await asyncio.sleep(0.05)
                else:
                    return

        async def on_message(message: Msg) -> None:
            made_reader.messages.append(message)
            async with made_reader.news:
                made_reader.seen.append(message.data.decode(errors="replace")[:40])
                made_reader.news.notify_all()
            if handle is not None:
                await handle(message)

        regaining: list[asyncio.Task[None]] = []
        nc = await own_bus.connect(reconnected_cb=reconnected, error_cb=quiet, reconnect_time_wait=0.05)
        queue = WorkQueue(
            nc,
            nc.jetstream(),
            STREAM,
            "reader",
            max_open=10_000,
            ack_wait_s=3600,
            handler=on_message,
            replaced=lambda: made_reader.replaced.set(),
            log=log,
        )
        made_reader = Reader(nc, queue)
        made.append(made_reader)
        if start:
            await queue.start()
        return made_reader

    with capture_logs():
        yield make
        for one in made:
            await one.queue.stop()
            await one.nc.close()


async def fill(js: JetStreamContext, count: int, first: int = 0) -> list[str]:
    names = [f"job {number}" for number in range(first, first + count)]
    for name in names:
        await js.publish("jobs.new", name.encode())
    return names


async def acknowledge(message: Msg) -> None:
    await message.ack()


async def open_messages(js: JetStreamContext) -> int:
    return (await js.stream_info(STREAM)).state.messages


async def until_open(js: JetStreamContext, count: int) -> None:
    async with asyncio.timeout(10):
        while await open_messages(js) != count:
            await asyncio.sleep(0.01)


async def test_messages_come_at_once_and_in_order(js: JetStreamContext, reader: MakeReader) -> None:
    before = await fill(js, 30)
    one = await reader(acknowledge)
    assert await one.saw(30) == before
    after = await fill(js, 30, 30)
    assert await one.saw(60) == before + after
    await until_open(js, 0)


async def test_the_start_tells_where_the_backlog_ends(js: JetStreamContext, reader: MakeReader) -> None:
    await fill(js, 7)
    one = await reader(start=False)
    assert await one.queue.start() == 7
    await fill(js, 1, 7)
    await one.saw(8)
    assert [message.metadata.sequence.stream <= 7 for message in one.messages] == [True] * 7 + [False]


async def test_what_was_not_acknowledged_comes_again_to_the_next_reader_at_once(
    js: JetStreamContext, reader: MakeReader
) -> None:
    names = await fill(js, 10)
    first = await reader()
    await first.saw(10)
    for message in first.messages[:4]:
        await message.ack()
    await until_open(js, 6)
    await first.nc.close()  # it dies without a word
    second = await reader()
    assert await second.saw(6) == names[4:]


async def test_a_reader_that_stops_leaves_the_rest_in_the_queue(js: JetStreamContext, reader: MakeReader) -> None:
    names = await fill(js, 3)
    first = await reader()
    await first.saw(3)
    await first.queue.stop()
    await fill(js, 1, 3)
    second = await reader(acknowledge)
    assert await second.saw(4) == [*names, "job 3"]
    assert len(first.seen) == 3


async def test_a_reader_that_was_replaced_is_told(js: JetStreamContext, reader: MakeReader) -> None:
    first = await reader()
    second = await reader(acknowledge)
    await asyncio.wait_for(first.replaced.wait(), 10)
    names = await fill(js, 5)
    assert await second.saw(5) == names
    assert first.seen == []
    assert not second.replaced.is_set()


async def test_a_handler_that_fails_does_not_end_the_reading(js: JetStreamContext, reader: MakeReader) -> None:
    async def fail_on_first(message: Msg) -> None:
        if message.data == b"job 0":
            raise ValueError("bad luck")
        await message.ack()

    one = await reader(fail_on_first)
    await fill(js, 3)
    await one.saw(3)
    await until_open(js, 1)


async def test_after_a_crash_of_the_bus_the_reading_goes_on_and_open_work_comes_again(
    own_bus: NatsServer, js: JetStreamContext, reader: MakeReader
) -> None:
    await fill(js, 5)
    one = await reader()
    await one.saw(5)
    await one.messages[0].ack()
    await one.messages[1].ack()
    await until_open(js, 3)
    own_bus.kill()
    own_bus.restart()
    # Nobody knows what of the rest was lost with the connection, so all of it is delivered anew.
    assert (await one.saw(8))[5:] == ["job 2", "job 3", "job 4"]
    await fill(js, 1, 5)
    assert (await one.saw(9))[8] == "job 5"
    for message in one.messages[5:]:
        await message.ack()
    await until_open(js, 0)
    assert not one.replaced.is_set()


async def test_a_message_lost_on_a_dying_connection_is_not_lost_for_the_reader(
    own_bus: NatsServer, js: JetStreamContext, reader: MakeReader
) -> None:
    one = await reader(acknowledge)
    await fill(js, 1)
    await one.saw(1)
    # The server has handed it out and the reader never got it: as when the connection dies between the two.
    one.queue._subscription._cb = swallow  # type: ignore[union-attr]
    await fill(js, 1, 1)
    async with asyncio.timeout(10):
        while (await js.consumer_info(STREAM, "reader")).num_ack_pending != 1:
            await asyncio.sleep(0.01)
    one.queue._subscription._cb = one.queue._on_message  # type: ignore[union-attr]
    own_bus.restart()
    assert await one.saw(2) == ["job 0", "job 1"]


async def swallow(_: Msg) -> None: ...


async def test_a_backlog_larger_than_one_request_is_read_to_its_end(js: JetStreamContext, reader: MakeReader) -> None:
    async def publish(number: int) -> None:
        await js.publish("jobs.new", f"job {number}".encode())

    for start in range(0, 1500, 250):
        await asyncio.gather(*(publish(number) for number in range(start, start + 250)))
    one = await reader(acknowledge)
    assert len(set(await one.saw(1500, 18))) == 1500
    await until_open(js, 0)


async def test_a_backlog_of_large_messages_does_not_overrun_the_reader(
    js: JetStreamContext, reader: MakeReader
) -> None:
    body = b"x" * (1 << 20)
    for number in range(20):
        await js.publish("jobs.new", f"{number:02} ".encode() + body[: len(body) - 3])
    one = await reader(acknowledge)
    assert [int(text[:2]) for text in await one.saw(20)] == list(range(20))
    await until_open(js, 0)
