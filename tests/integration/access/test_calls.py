"""Which calls access lets pass, what the manager gets, and what the caller is told otherwise."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from support.access_installation import Installation
from support.frame_inbox import RawAgent
from support.kernel_peer import KernelPeer, kernel_peer

from aios_kit.streams import events_stream, syscalls_stream
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.frames import FRAME
from aios_proto.limits import BUS_MAX_PAYLOAD_BYTES, MAX_BODY_BYTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(installation: Installation) -> RawAgent:
    return await installation.agent(tenant="acme")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def memory(installation: Installation) -> AsyncIterator[KernelPeer]:
    """A memory manager that answers everything."""
    async with kernel_peer(installation.server, "memory", "memory") as peer:
        yield peer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scheduler(installation: Installation) -> AsyncIterator[KernelPeer]:
    """A scheduler that takes volatile model calls; the durable ones stay in the queue."""
    async with kernel_peer(installation.server, "scheduler", "llm", pattern="aios.k.llm.*") as peer:
        yield peer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attaching(installation: Installation) -> AsyncIterator[KernelPeer]:
    """The part of a scheduler that answers `syscall.attach`."""
    async with kernel_peer(installation.server, "scheduler", "syscall", pattern="aios.k.syscall.*") as peer:
        yield peer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def js(installation: Installation) -> AsyncIterator[JetStreamContext]:
    """JetStream, as access sees it."""
    nc = await installation.server.connect("access")
    yield nc.jetstream()
    await nc.close()


async def test_the_manager_gets_the_body_as_it_came_and_knows_who_called(agent: RawAgent, memory: KernelPeer) -> None:
    body = b'{ "content":  "\xc3\xa4" , "more": [1,2]}'
    result = await agent.result("memory", "add", body, call_id="c-1", headers={wire.PROGRAM: "run-1"})
    assert result == {"subject": "aios.k.memory.add"}
    message = await memory.received_call("c-1")
    assert message.data == body
    headers = wire.from_kernel(message.headers)
    assert (headers.tenant, headers.agent, headers.group) == ("acme", agent.agent, "agent")
    assert headers.program == "run-1"
    assert headers.deadline_ms is not None
    assert 0 < headers.deadline_ms / 1000 - time.time() <= 600


async def test_dotted_operations_reach_their_manager(agent: RawAgent, memory: KernelPeer) -> None:
    assert await agent.result("memory", "pool.list") == {"subject": "aios.k.memory.pool.list"}


async def test_a_forged_identity_is_dropped_on_the_way(agent: RawAgent, memory: KernelPeer) -> None:
    forged = {
        wire.TENANT: "default",
        wire.AGENT: "operator",
        wire.GROUP: "operator",
        wire.REPLY: "_INBOX.default.operator.1",
        wire.MSG_ID: "forged",
        wire.ATTEMPT: "3",
        wire.OPERATION: "chat",
        "Nats-Rollup": "all",
    }
    await agent.result("memory", "add", {"content": "x"}, headers=forged, call_id="c-forged")
    received = (await memory.received_call("c-forged")).headers or {}
    headers = wire.from_kernel(received)
    assert (headers.tenant, headers.agent, headers.group) == ("acme", agent.agent, "agent")
    assert headers.reply.startswith(f"_INBOX.acme.{agent.agent}.")
    assert not {wire.MSG_ID, wire.ATTEMPT, wire.OPERATION, "Nats-Rollup"} & received.keys()


async def test_forged_identity_does_not_open_operators_doors(agent: RawAgent) -> None:
    forged = {wire.TENANT: "default", wire.AGENT: "operator", wire.GROUP: "operator"}
    error = await agent.error("access", "agent.create", {"agent": "mine"}, headers=forged)
    assert error["code"] == "access.denied"


async def test_headers_as_large_as_the_bus_allows_do_not_knock_access_out(
    installation: Installation, agent: RawAgent, memory: KernelPeer
) -> None:
    # Just what the bus carries: with what access adds it would be too much, and the bus would hang up on access.
    body = b'{"content":"x"}'.ljust(MAX_BODY_BYTES)
    huge = "x" * (BUS_MAX_PAYLOAD_BYTES - MAX_BODY_BYTES - 100)
    for name in (wire.TRACESTATE, wire.TRACEPARENT, "X-Mine"):
        frame = await agent.call("memory", "add", body, headers={name: huge})
        assert frame["type"] == "done"
    assert installation.access.returncode is None
    assert (await installation.access.readiness())[0] == 200


@pytest.mark.parametrize("target", ["_INBOX.default.operator.stolen", "aios.k.memory.remove", "_INBOX.acme.{agent}.>"])
async def test_a_reply_elsewhere_is_refused_into_the_own_inbox_and_nothing_goes_elsewhere(
    installation: Installation, agent: RawAgent, memory: KernelPeer, target: str
) -> None:
    before = len(memory.received)
    await agent.send("memory", "add", {"content": "x"}, reply=target.format(agent=agent.agent), call_id="c-stolen")
    frame = await agent.inbox.next(f"{agent.inbox.prefix}.refused")
    assert (frame["id"], frame["error"]["code"], frame["error"]["field"]) == (
        "c-stolen",
        "access.reply_forbidden",
        "reply",
    )
    await installation.operator.result("access", "whoami")
    assert installation.operator.inbox.waiting("_INBOX.default.operator.stolen") == 0
    assert len(memory.received) == before


async def test_a_call_without_a_reply_is_refused_into_the_own_inbox(agent: RawAgent, memory: KernelPeer) -> None:
    await agent.nc.publish(
        f"aios.sys.acme.{agent.agent}.memory.add", b"{}", headers={wire.ID: "c-mute", wire.PROTO: "1"}
    )
    frame = await agent.inbox.next(f"{agent.inbox.prefix}.refused")
    assert (frame["id"], frame["error"]["code"]) == ("c-mute", "access.reply_forbidden")


async def denial(js: JetStreamContext, tenant: str, call_id: str) -> dict[str, Any]:
    """What is told of a denied call; it is stored a moment after the call was answered."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(NotFoundError):
                found = await js.get_last_msg(subjects.EVENTS_STREAM, f"aios.evt.{tenant}.syscall.denied")
                fact: dict[str, Any] = orjson.loads(found.data or b"{}")
                if fact["id"] == call_id:
                    return fact
            await asyncio.sleep(0.01)


async def test_what_a_group_may_not_do_is_denied_and_recorded(installation: Installation, js: JetStreamContext) -> None:
    guest = await installation.agent("guest", tenant="watched")
    error = await guest.error("llm", "chat", {}, call_id="c-denied", headers={wire.TRACEPARENT: SAMPLED})
    assert (error["code"], error["field"], error["retryable"]) == ("access.denied", "operation", False)
    assert (error["syscall_id"], error["trace_id"]) == ("c-denied", TRACE)
    fact = await denial(js, "watched", "c-denied")
    assert (fact["agent"], fact["operation"], fact["code"]) == (guest.agent, "llm.chat", "access.denied")
    assert fact["trace_id"] == TRACE


@pytest.mark.parametrize(
    ("manager", "operation", "code", "field"),
    [
        ("mind", "read", "request.unknown_manager", "manager"),
        ("memory", "explode", "request.unknown_operation", "operation"),
        ("memory", "add.more.and.more", "request.unknown_operation", "operation"),
        ("x" * 200, "y" * 200, "request.unknown_manager", "manager"),
        ("storage", "read", "manager.unavailable", None),
    ],
)
async def test_what_nobody_serves_is_told_by_its_code(
    agent: RawAgent, memory: KernelPeer, manager: str, operation: str, code: str, field: str | None
) -> None:
    error = await agent.error(manager, operation)
    assert (error["code"], error.get("field")) == (code, field)


async def test_a_manager_that_says_goodbye_is_unavailable_at_once_and_back_with_its_next_heartbeat(
    installation: Installation, agent: RawAgent
) -> None:
    async with kernel_peer(installation.server, "tool", "tool", instance="short-lived") as tool:
        assert (await agent.call("tool", "list"))["type"] == "done"
        await tool.beat(leaving=True)
        assert (await agent.error("tool", "list"))["code"] == "manager.unavailable"
        await tool.beat()
        assert (await agent.call("tool", "list"))["type"] == "done"


async def test_a_body_of_two_mebibytes_is_refused_with_its_size(agent: RawAgent, memory: KernelPeer) -> None:
    error = await agent.error("memory", "add", b'{"content":"' + b"x" * (2 << 20) + b'"}')
    assert (error["code"], error["field"]) == ("request.too_large", "body")
    assert "1048576" in error["message"]


async def test_an_expired_deadline_is_told_at_once_and_the_manager_is_not_bothered(
    agent: RawAgent, memory: KernelPeer
) -> None:
    before = len(memory.received)
    past = str(int(time.time() * 1000) - 1000)
    error = await agent.error("memory", "add", {"content": "x"}, headers={wire.DEADLINE: past})
    assert (error["code"], error["field"]) == ("deadline.exceeded", wire.DEADLINE)
    assert len(memory.received) == before


async def test_a_call_whose_id_cannot_be_read_is_still_answered(agent: RawAgent, memory: KernelPeer) -> None:
    frame = await agent.call("memory", "add", {"content": "x"}, headers={wire.ID: "no good"})
    assert (frame["error"]["code"], frame["error"]["field"]) == ("request.invalid", wire.ID)
    FRAME.validate_python(frame)


async def test_names_agents_make_up_do_not_become_metrics(installation: Installation, agent: RawAgent) -> None:
    await agent.error("invented", "thing", headers={wire.PRIORITY: "bad"})
    await agent.send("invented2", "thing", reply="elsewhere")
    await agent.inbox.next(f"{agent.inbox.prefix}.refused")
    text = (await installation.access.get("/metrics"))[1]
    assert "invented" not in text
    assert 'operation="unknown",outcome="request.invalid"' in text


async def test_a_durable_call_is_in_the_stream_before_it_is_accepted(
    agent: RawAgent, scheduler: KernelPeer, js: JetStreamContext
) -> None:
    reply = await agent.send("llm", "chat", {"messages": []}, call_id="c-durable", headers={wire.PRIORITY: "7"})
    frame = await agent.inbox.next(reply)
    assert (frame["type"], frame["id"]) == ("accepted", "c-durable")
    stored = await js.get_last_msg(subjects.SYSCALLS_STREAM, "aios.q.llm.chat")
    headers = wire.from_kernel(stored.headers)
    assert (headers.id, headers.tenant, headers.agent, headers.priority) == ("c-durable", "acme", agent.agent, 7)
    assert headers.reply == reply
    assert stored.data == b'{"messages":[]}'


async def test_the_scheduler_has_a_durable_call_without_waiting_for_the_disk(
    agent: RawAgent, scheduler: KernelPeer, js: JetStreamContext
) -> None:
    before = (await js.stream_info(subjects.SYSCALLS_STREAM)).state.messages
    for number in range(2):  # the first shows access that the store works
        reply = await agent.send("llm", "chat", {"messages": []}, call_id=f"c-ahead-{number}")
        assert (await agent.inbox.next(reply))["type"] == "accepted"
    direct = await scheduler.received_call("c-ahead-1")
    headers = wire.from_kernel(direct.headers)
    assert (direct.subject, headers.durability, headers.reply) == ("aios.k.llm.chat", "durable", reply)
    assert (await js.stream_info(subjects.SYSCALLS_STREAM)).state.messages == before + 2


async def test_a_volatile_model_call_leaves_the_stream_alone(
    agent: RawAgent, scheduler: KernelPeer, js: JetStreamContext
) -> None:
    before = (await js.stream_info(subjects.SYSCALLS_STREAM)).state.last_seq
    await agent.result("llm", "chat", {}, headers={wire.DURABILITY: "volatile"}, call_id="c-volatile")
    await scheduler.received_call("c-volatile")
    assert (await js.stream_info(subjects.SYSCALLS_STREAM)).state.last_seq == before


async def test_the_same_id_twice_is_queued_once_and_answered_twice(
    agent: RawAgent, scheduler: KernelPeer, attaching: KernelPeer, js: JetStreamContext
) -> None:
    before = (await js.stream_info(subjects.SYSCALLS_STREAM)).state.messages
    first = await agent.send("llm", "chat", {"messages": []}, call_id="c-twice")
    assert (await agent.inbox.next(first))["type"] == "accepted"
    second = await agent.send("llm", "chat", {"messages": []}, call_id="c-twice")
    assert (await agent.inbox.next(second))["type"] == "accepted"
    assert (await js.stream_info(subjects.SYSCALLS_STREAM)).state.messages == before + 1
    attach = await attaching.received_call("c-twice")
    assert orjson.loads(attach.data) == {"id": "c-twice"}
    assert wire.from_kernel(attach.headers).reply == second
    assert wire.MSG_ID not in (attach.headers or {})


async def test_the_same_id_of_two_agents_is_two_calls(
    installation: Installation, agent: RawAgent, scheduler: KernelPeer, js: JetStreamContext
) -> None:
    other = await installation.agent(tenant="acme")
    before = (await js.stream_info(subjects.SYSCALLS_STREAM)).state.messages
    for caller in (agent, other):
        reply = await caller.send("llm", "chat", {"messages": []}, call_id="c-shared")
        assert (await caller.inbox.next(reply))["type"] == "accepted"
    assert (await js.stream_info(subjects.SYSCALLS_STREAM)).state.messages == before + 2


async def until_refused(agent: RawAgent) -> dict[str, Any]:
    """The error of the first durable call that is refused; those before went ahead to the scheduler, unaccepted."""
    async with asyncio.timeout(15):
        while True:
            reply = await agent.send("llm", "chat", {"messages": []})
            with contextlib.suppress(TimeoutError):
                error: dict[str, Any] = (await agent.inbox.until_end(reply, timeout_s=1))[-1]["error"]
                return error


async def test_a_full_queue_is_told_with_a_time_to_wait(
    agent: RawAgent, scheduler: KernelPeer, js: JetStreamContext
) -> None:
    config = syscalls_stream(1)
    config.max_msgs = max(1, (await js.stream_info(subjects.SYSCALLS_STREAM)).state.messages)
    await js.update_stream(config)
    try:
        error = await until_refused(agent)
    finally:
        await js.update_stream(syscalls_stream(1))
    assert (error["code"], error["retryable"], error["retry_after_s"]) == ("queue.full", True, 1.0)


async def test_where_jetstream_does_not_take_calls_durable_ones_fail_quickly_and_volatile_ones_pass(
    agent: RawAgent, scheduler: KernelPeer, js: JetStreamContext
) -> None:
    await js.delete_stream(subjects.SYSCALLS_STREAM)
    try:
        error = await until_refused(agent)
        assert (error["code"], error["retryable"]) == ("bus.unavailable", True)
        started = time.monotonic()
        assert (await agent.error("llm", "chat", {"messages": []}))["code"] == "bus.unavailable"
        assert time.monotonic() - started < 6
        assert (await agent.call("llm", "chat", {}, headers={wire.DURABILITY: "volatile"}))["type"] == "done"
    finally:
        await js.add_stream(syscalls_stream(1))
    reply = await agent.send("llm", "chat", {"messages": []})
    assert (await agent.inbox.next(reply))["type"] == "accepted"


async def test_where_the_store_of_identities_is_away_its_operations_say_so_and_known_agents_go_on(
    installation: Installation, agent: RawAgent, memory: KernelPeer, js: JetStreamContext
) -> None:
    backup = await js.key_value(subjects.AGENTS_BUCKET)
    kept = {key: (await backup.get(key)).value or b"" for key in await backup.keys()}
    await js.delete_stream(f"KV_{subjects.AGENTS_BUCKET}")
    try:
        error = await installation.operator.error("access", "agent.create", {"agent": "untimely"})
        assert (error["code"], error["retryable"]) == ("bus.unavailable", True)
        assert (await agent.call("memory", "add", {"content": "x"}))["type"] == "done"
    finally:
        bucket = await js.create_key_value(bucket=subjects.AGENTS_BUCKET, history=5, direct=True)
        for key, value in kept.items():
            await bucket.put(key, value)


async def test_access_leaves_a_span_between_the_agent_and_the_manager(
    installation: Installation, agent: RawAgent, memory: KernelPeer
) -> None:
    await agent.result(
        "memory",
        "add",
        {"content": "x"},
        call_id="c-traced",
        headers={wire.TRACEPARENT: SAMPLED, wire.TRACESTATE: "v=1"},
    )
    passed_on = (await memory.received_call("c-traced")).headers or {}
    assert passed_on[wire.TRACESTATE] == "v=1"

    def mine(spans: Any) -> list[Any]:
        return [span for span in spans if span.attributes.get("aios.syscall.id") == "c-traced"]

    (span,) = mine(await installation.sink.wait(lambda spans: len(mine(spans)) == 1))
    assert (span.service, span.name, span.trace_id) == ("aios-access", "access", TRACE)
    assert span.parent_id == "b7ad6b7169203331"
    assert passed_on[wire.TRACEPARENT] == f"00-{TRACE}-{span.span_id}-{passed_on[wire.TRACEPARENT][-2:]}"
    assert span.attributes["aios.agent"] == agent.agent


async def test_the_streams_are_there_for_the_others(installation: Installation, js: JetStreamContext) -> None:
    assert (await js.stream_info(subjects.EVENTS_STREAM)).config.max_bytes == events_stream(1).max_bytes
