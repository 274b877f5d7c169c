"""Calls that wait for a quota, over two replicas of access: listed and cancelled at either, and run at most once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest
import pytest_asyncio
from support.access_installation import Installation
from support.audit_reader import AuditReader, Record
from support.kernel_peer import KernelPeer, kernel_peer
from support.nats_server import NatsServer
from support.quota_waits import CHAT, begun, ended, full, limit, listed, open_calls, two_replicas, waiting

from aios import Agent, SyscallCancelled
from aios_proto import headers as wire
from aios_proto import telemetry
from aios_proto.ids import new_syscall_id
from aios_stack.spans.record import SpanRecord

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(server: NatsServer) -> AsyncIterator[Installation]:
    async with two_replicas(server) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def memory(installation: Installation) -> AsyncIterator[KernelPeer]:
    async with kernel_peer(installation.server, "memory", "memory") as peer:
        yield peer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def audit(installation: Installation) -> AsyncIterator[AuditReader]:
    reader = await AuditReader.connect(installation.server)
    yield reader
    await reader.close()


def is_about(call_id: str, record: Record) -> bool:
    return record.get("id") == call_id


def is_span_of(call_id: str, span: SpanRecord) -> bool:
    """Whether it is access's span of this call."""
    return span.name == telemetry.SPAN_ACCESS and span.attributes.get(telemetry.SYSCALL_ID) == call_id


def has_span(call_id: str, code: str, spans: Sequence[SpanRecord]) -> bool:
    """Whether access's one span of a call has ended with this code."""
    return [span.attributes.get(telemetry.ERROR_TYPE) for span in spans if is_span_of(call_id, span)] == [code]


async def test_a_waiting_call_is_cancelled_at_either_replica_and_never_reaches_the_scheduler(
    installation: Installation, audit: AuditReader
) -> None:
    agent, running = await full(installation, tokens=10_000, tokens_window_s=3600)
    other = await installation.agent()
    # The bus deals both the calls and their cancels out to the replicas as it likes.
    waits = [await waiting(agent) for _ in range(12)]
    assert (await other.error("syscall", "cancel", {"id": waits[0][0]}))["code"] == "syscall.unknown"
    for number, (call_id, reply) in enumerate(waits):
        body = {"id": call_id, "keep": True} if number % 2 else {"id": call_id}
        assert await agent.result("syscall", "cancel", body) == {"id": call_id, "state": "queued"}
        frame = await agent.inbox.next(reply)
        assert (frame["type"], frame["error"]["code"]) == ("error", "syscall.cancelled")
        record = await audit.find("default", partial(is_about, call_id))
        assert (record["effect"], record["code"]) == ("refuse", "syscall.cancelled")
        await installation.sink.wait(partial(has_span, call_id, "syscall.cancelled"))
    assert set(await open_calls(agent)) == {running}
    # All of them are told that it is over, so it does not begin when there is a place.
    await ended(agent, running)
    last = await begun(agent)
    assert set(await open_calls(agent)) == {last}
    await audit.find("default", partial(is_about, last))
    records = await audit.records("default")
    for call_id, _ in waits:
        assert [record["effect"] for record in records if is_about(call_id, record)] == ["refuse"]
    assert all(agent.inbox.waiting(reply) == 0 for _, reply in waits)
    assert (await agent.error("llm", "chat", CHAT, call_id=waits[0][0]))["code"] == "syscall.cancelled"
    assert (await agent.error("syscall", "cancel", {"id": waits[0][0]}))["code"] == "syscall.unknown"
    await ended(agent, last)


async def test_waiting_calls_are_listed_with_the_quota_they_wait_for(installation: Installation) -> None:
    agent, running = await full(installation)
    call_id, _ = await waiting(agent)
    shown = await listed(agent, call_id, running)
    assert (shown[call_id]["state"], shown[call_id]["operation"]) == ("queued", "llm.chat")
    assert f"open calls of the agent {agent.agent} is used up" in shown[call_id]["why"]
    assert "when a call ends" in shown[call_id]["why"]
    assert shown[call_id]["deadline_ms"] > 0
    assert await open_calls(await installation.agent()) == {}
    for each in (call_id, running):
        await ended(agent, each)


async def test_a_call_that_waits_for_its_tokens_says_when_there_are_more(installation: Installation) -> None:
    agent = await installation.agent()
    await limit(installation, agent, tokens=100, tokens_window_s=20, wait_s=60)
    call_id = new_syscall_id()
    reply = await agent.send("llm", "chat", {**CHAT, "max_tokens": 200}, call_id=call_id)
    shown = await listed(agent, call_id)
    assert f"the quota of tokens of the agent {agent.agent} is used up; there is more in " in shown[call_id]["why"]
    await ended(agent, call_id)
    assert (await agent.inbox.next(reply))["error"]["code"] == "syscall.cancelled"


async def test_a_cancel_that_races_with_a_place_that_becomes_free_has_one_outcome(
    installation: Installation,
) -> None:
    agent, running = await full(installation)
    for round_number in range(24):
        call_id, reply = await waiting(agent)
        first = asyncio.create_task(agent.call("syscall", "cancel", {"id": running}))
        for _ in range(round_number % 4):
            # The later its own cancel comes, the likelier it has passed.
            await agent.result("access", "whoami")
        second = asyncio.create_task(agent.call("syscall", "cancel", {"id": call_id}))
        answers = await asyncio.gather(first, second)
        assert [answer["type"] for answer in answers] == ["done", "done"], answers
        ends = [(await agent.inbox.until_end(reply, timeout_s=20))[-1]]
        running = await begun(agent)
        while agent.inbox.waiting(reply):
            frame = await agent.inbox.next(reply)
            ends += [] if frame["type"] == "accepted" else [frame]
        # Access ended it, or let it pass and the scheduler ended it.
        assert [end["error"]["code"] for end in ends] == ["syscall.cancelled"], ends
    await ended(agent, running)


async def test_a_cancelled_call_has_no_result_and_one_with_a_result_was_not_cancelled(
    installation: Installation, memory: KernelPeer
) -> None:
    agent = await installation.agent()
    await limit(installation, agent, calls_per_s=40, wait_s=60)
    ids = [new_syscall_id() for _ in range(100)]
    replies = [await agent.send("memory", "add", {"content": "x"}, call_id=each) for each in ids]
    cancels = await asyncio.gather(*(agent.call("syscall", "cancel", {"id": each}) for each in ids[::4]))
    outcomes = [(await agent.inbox.until_end(reply, timeout_s=60))[-1] for reply in replies]
    ran = Counter((message.headers or {})[wire.ID] for message in memory.received)
    told = dict(zip(ids[::4], cancels, strict=True))
    for call_id, reply, outcome in zip(ids, replies, outcomes, strict=True):
        cancelled = call_id in told and told[call_id]["type"] == "done"
        assert (outcome["type"] == "error") is cancelled, (outcome, told.get(call_id))
        assert ran[call_id] == (0 if cancelled else 1)
        assert agent.inbox.waiting(reply) == 0


async def test_the_deadline_of_a_waiting_call_ends_it(installation: Installation) -> None:
    agent, running = await full(installation)
    shown = await listed(agent, running)
    deadline_ms = shown[running]["deadline_ms"] - 597_000  # the kernel's own is ten minutes
    error = await agent.error("llm", "chat", CHAT, headers={wire.DEADLINE: str(deadline_ms)})
    assert error["code"] == "deadline.exceeded"
    assert set(await open_calls(agent)) == {running}
    await ended(agent, running)


async def test_a_waiting_call_sent_again_joins_itself_and_is_answered_wherever_it_was_asked(
    installation: Installation,
) -> None:
    agent, running = await full(installation)
    call_id, reply = await waiting(agent)
    for _ in range(8):
        await agent.send("llm", "chat", CHAT, call_id=call_id, reply=reply)
    second = await agent.send("llm", "chat", CHAT, call_id=call_id)
    await agent.result("access", "whoami")
    await listed(agent, call_id)
    await ended(agent, running)
    for each in (reply, second):
        assert (await agent.inbox.next(each, 20))["type"] == "accepted"
    await ended(agent, call_id)
    assert (await agent.inbox.until_end(reply))[-1]["error"]["code"] == "syscall.cancelled"
    assert (await agent.inbox.until_end(second))[-1]["error"]["code"] == "syscall.cancelled"
    # It held one place, and that is free again.
    last = await begun(agent)
    await ended(agent, last)


async def test_a_call_of_the_sdk_waits_through_its_own_resends_and_is_cancelled_once(
    installation: Installation,
) -> None:
    token = await installation.create()
    raw = await installation.connect(token)
    await limit(installation, raw, concurrent_calls=1, wait_s=60)
    running = await begun(raw)
    async with Agent(token=token, url=installation.server.url) as agent:
        passes, cancelled = agent.llm.chat("x"), agent.llm.chat("y")
        await listed(raw, passes.id, cancelled.id)
        # Nobody has answered it, so it is sent again and again; each time it joins itself.
        await installation.sink.wait(lambda spans: sum(is_span_of(cancelled.id, span) for span in spans) >= 2, 30)
        assert (await cancelled.cancel()).state == "queued"
        with pytest.raises(SyscallCancelled):
            await cancelled
        await ended(raw, running)
        await passes.accepted()
        assert set(await open_calls(raw)) == {passes.id}
        await passes.cancel()
        with pytest.raises(SyscallCancelled):
            await passes
    last = await begun(raw)
    await ended(raw, last)


async def test_another_call_of_the_same_id_is_refused_while_the_first_one_waits(installation: Installation) -> None:
    agent, running = await full(installation)
    call_id, reply = await waiting(agent)
    for _ in range(4):
        error = await agent.error("llm", "complete", {"prompt": "x"}, call_id=call_id)
        assert (error["code"], error["field"]) == ("resource.conflict", "Aios-Id")
    await ended(agent, call_id)
    assert (await agent.inbox.next(reply))["error"]["code"] == "syscall.cancelled"
    await ended(agent, running)


async def test_a_cancel_does_not_wait_behind_the_calls_it_is_about(
    installation: Installation, memory: KernelPeer
) -> None:
    agent = await installation.agent()
    await limit(installation, agent, calls_per_s=1, wait_s=60)
    ids = [new_syscall_id() for _ in range(200)]
    replies = [await agent.send("memory", "add", {"content": "x"}, call_id=each) for each in ids]
    # In turn with the others, one a second, it would hardly be answered in time.
    answer = await agent.call("syscall", "cancel", {"id": ids[-1]})
    assert answer["result"]["state"] == "queued", answer
    assert (await agent.inbox.next(replies[-1]))["error"]["code"] == "syscall.cancelled"
    await installation.operator.result("access", "agent.revoke", {"agent": agent.agent})
