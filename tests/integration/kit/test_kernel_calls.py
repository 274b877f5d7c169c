"""What a service gets that asks another one in the name of its caller."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.nats_server import NatsServer, settle
from support.running_service import running_in_process
from support.slow_service import SlowService

from aios_kit.kernel_calls import KernelCalls
from aios_kit.settings import ServiceSettings
from aios_kit.tracing import Tracing
from aios_proto import headers as wire
from aios_proto.errors import (
    BusUnavailable,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ManagerUnavailable,
)
from aios_proto.headers import CallHeaders
from aios_proto.messages.llm import EmbedRequest, EmbedResult
from aios_proto.messages.memory import AddRequest, MemoryIdResult

SERVED = CallHeaders(
    id="outer", program="run-1", priority=7, tenant="acme", agent="alice", group="agents", reply="_INBOX.acme.alice.1"
)


@pytest.fixture
async def slow(shared_bus: NatsServer, settings_for: Callable[..., ServiceSettings]) -> AsyncIterator[SlowService]:
    service = SlowService(settings_for(shared_bus), concurrency=4)
    async with running_in_process(service.service):
        yield service


@pytest.fixture
async def calls(shared_bus: NatsServer, settings_for: Callable[..., ServiceSettings]) -> AsyncIterator[KernelCalls]:
    nc = await shared_bus.connect()
    calls = KernelCalls("storage", Tracing("storage", settings_for(shared_bus)))
    await calls.open(nc)
    yield calls
    await nc.close()


@pytest.fixture
async def nc(shared_bus: NatsServer) -> AsyncIterator[Client]:
    """The connection of a service that is asked."""
    nc = await shared_bus.connect()
    yield nc
    await nc.close()


async def test_a_service_gets_the_others_result(slow: SlowService, calls: KernelCalls) -> None:
    result = await calls.call("memory", "add", AddRequest(content="hello"), MemoryIdResult, on_behalf=SERVED)
    assert result == MemoryIdResult(memory_id="hello")


async def test_the_call_is_made_in_the_name_of_the_agent_that_is_served(nc: Client, calls: KernelCalls) -> None:
    seen: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    async def keep(message: Msg) -> None:
        seen.set_result(message)
        await nc.publish(message.reply, b'{"type":"accepted","id":"x"}')
        await nc.publish(
            message.reply, b'{"type":"done","id":"x","result":{"model":"m","vectors":[[1.0]],"dimensions":1}}'
        )

    await nc.subscribe("aios.k.llm.embed", cb=keep)
    await settle(nc)
    result = await calls.call("llm", "embed", EmbedRequest(texts=["a"]), EmbedResult, on_behalf=SERVED, priority=1)
    assert result.vectors == [[1.0]]
    headers = wire.from_kernel((await seen).headers)
    assert (headers.tenant, headers.agent, headers.group, headers.program) == ("acme", "alice", "agents", "run-1")
    assert headers.priority == 1
    assert headers.id != "outer"
    assert headers.reply.startswith("_INBOX_AIOS.storage.call.")


async def test_the_others_error_arrives_as_its_own_class(slow: SlowService, calls: KernelCalls) -> None:
    with pytest.raises(InternalError, match="memory failed"):
        await calls.call("memory", "add", AddRequest(content="raise"), MemoryIdResult, on_behalf=SERVED)
    with pytest.raises(InvalidRequest) as refused:
        await calls.call("memory", "add", EmbedRequest(texts=["a"]), MemoryIdResult, on_behalf=SERVED)
    assert refused.value.field == "content"


async def test_a_manager_that_does_not_run_is_unavailable_at_once(calls: KernelCalls) -> None:
    started = time.monotonic()
    with pytest.raises(ManagerUnavailable):
        await calls.call("tool", "call", EmbedRequest(texts=["a"]), EmbedResult, on_behalf=SERVED, deadline_s=15)
    assert time.monotonic() - started < 10


async def test_silence_ends_at_the_deadline_and_the_model_call_is_cancelled(nc: Client, calls: KernelCalls) -> None:
    asked: list[Msg] = []
    cancelled: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    async def keep(message: Msg) -> None:
        asked.append(message)

    async def keep_cancel(message: Msg) -> None:
        cancelled.set_result(message)

    await nc.subscribe("aios.k.llm.embed", cb=keep)
    await nc.subscribe("aios.k.syscall.cancel", cb=keep_cancel)
    await settle(nc)
    with pytest.raises(DeadlineExceeded, match=r"llm\.embed"):
        await calls.call("llm", "embed", EmbedRequest(texts=["a"]), EmbedResult, on_behalf=SERVED, deadline_s=0.2)
    message = await asyncio.wait_for(cancelled, 10)
    assert asked[0].headers is not None
    assert asked[0].headers[wire.ID].encode() in message.data


async def test_it_ends_no_later_than_the_call_it_serves(slow: SlowService, calls: KernelCalls) -> None:
    late = CallHeaders(id="outer", tenant="acme", agent="alice", group="agents", deadline_ms=1)
    with pytest.raises(DeadlineExceeded):
        await calls.call("memory", "add", AddRequest(content="x"), MemoryIdResult, on_behalf=late)
    assert slow.begun == 0


async def test_a_lost_connection_ends_the_wait(slow: SlowService, calls: KernelCalls) -> None:
    waiting = asyncio.create_task(
        calls.call("memory", "add", AddRequest(content="hold"), MemoryIdResult, on_behalf=SERVED)
    )
    while not slow.begun:
        await asyncio.sleep(0.01)
    calls.connection_lost()
    with pytest.raises(BusUnavailable):
        await waiting
    slow.go_on.set()


async def test_an_answer_that_makes_no_sense_is_an_internal_error(nc: Client, calls: KernelCalls) -> None:

    async def nonsense(message: Msg) -> None:
        await nc.publish(message.reply, b'{"type":"done","id":"x","result":{"vectors":"none"}}')

    await nc.subscribe("aios.k.llm.embed", cb=nonsense)
    await settle(nc)
    with pytest.raises(InternalError, match="could not be read"):
        await calls.call("llm", "embed", EmbedRequest(texts=["a"]), EmbedResult, on_behalf=SERVED)
