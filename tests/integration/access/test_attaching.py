"""Who attaches to a call that waits, for a quota or a human, hears it as whoever made it does, at either replica."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from nats.aio.msg import Msg
from support.access_installation import Installation
from support.frame_inbox import RawAgent
from support.kernel_peer import KernelPeer, kernel_peer
from support.nats_server import NatsServer, settle
from support.quota_waits import CHAT, begun, ended, full, limit, listed, two_replicas, waiting
from support.scripted_worker import ScriptedWorker

from aios import Agent
from aios_kit import replies
from aios_proto import headers as wire
from aios_proto.ids import new_syscall_id

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

TWICE = 4
"""So many attach each time: the bus deals them out to the replicas as it likes."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installation(server: NatsServer) -> AsyncIterator[Installation]:
    async with two_replicas(server) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def memory(installation: Installation) -> AsyncIterator[KernelPeer]:
    async with kernel_peer(installation.server, "memory", "memory") as peer:
        yield peer


async def attach(agent: RawAgent, call_id: str) -> list[str]:
    """Attaches to a call from several new inboxes; returns when that has been taken in."""
    replies = [await agent.send("syscall", "attach", {"id": call_id}) for _ in range(TWICE)]
    # These go the same ways behind it, and the scheduler looks for each for a while before it says that it is unknown.
    unknown = [agent.error("syscall", "attach", {"id": new_syscall_id()}) for _ in range(2 * TWICE)]
    assert {error["code"] for error in await asyncio.gather(*unknown)} == {"syscall.unknown"}
    return replies


async def ask_first(installation: Installation, agent: RawAgent, operation: str) -> None:
    """Has a human asked before the agent's calls of this operation."""
    who, what = f'principal == Agent::"default.{agent.agent}"', f'action == Action::"{operation}"'
    ask = f'@id("ask") @ask permit({who}, {what}, resource);'
    await installation.operator.result("access", "policy.put", {"name": agent.agent, "text": ask})


async def parked(installation: Installation, agent: RawAgent) -> tuple[str, str, str]:
    """A model call that waits for a human: its id, its reply subject, and the approval's id."""
    await ask_first(installation, agent, "llm.chat")
    while True:
        call_id = new_syscall_id()
        reply = await agent.send("llm", "chat", CHAT, call_id=call_id)
        frame = await agent.inbox.next(reply)
        if frame["type"] == "pending_approval":
            return call_id, reply, frame["approval_id"]
        await ended(agent, call_id)  # that replica has not heard of the policy yet


async def test_who_attaches_to_a_call_that_waits_for_a_quota_hears_it_and_so_does_its_maker(
    installation: Installation,
) -> None:
    agent, running = await full(installation)
    for _ in range(3):  # it waits at one replica or the other
        call_id, reply = await waiting(agent)
        others = await attach(agent, call_id)
        assert [agent.inbox.waiting(each) for each in others] == [0] * TWICE
        await ended(agent, running)
        assert (await agent.inbox.next(reply, 20))["type"] == "accepted"
        await listed(agent, call_id)
        await ended(agent, call_id)
        for each in (reply, *others):
            assert (await agent.inbox.until_end(each, 20))[-1]["error"]["code"] == "syscall.cancelled"
        running = await begun(agent)
    await ended(agent, running)


async def test_who_attaches_to_a_waiting_call_of_any_manager_is_answered(
    installation: Installation, memory: KernelPeer
) -> None:
    agent = await installation.agent()
    await limit(installation, agent, calls_per_s=4, wait_s=60)
    async with asyncio.timeout(80):
        while True:
            ids = [new_syscall_id() for _ in range(12)]
            replies = [await agent.send("memory", "add", {"content": "x"}, call_id=each) for each in ids]
            attached = await agent.send("syscall", "attach", {"id": ids[-1]})
            ends = [(await agent.inbox.until_end(each, 60))[-1] for each in replies]
            assert [end["type"] for end in ends] == ["done"] * 12
            end = (await agent.inbox.until_end(attached, 60))[-1]
            if end["type"] == "done":
                assert end["id"] == ids[-1]
                return
            assert end["error"]["code"] == "syscall.unknown"  # it had passed before anybody attached


async def test_a_waiting_call_that_would_run_twice_cannot_be_attached_to(installation: Installation) -> None:
    agent = await installation.agent()
    # Enough that some attempts to attach go before these calls, as long as none is known to wait.
    await limit(installation, agent, calls_per_s=5, wait_s=60)
    ids = [new_syscall_id() for _ in range(100)]
    for each in ids:
        await agent.send("access", "whoami", call_id=each)
    for _ in range(4):
        error = await agent.error("syscall", "attach", {"id": ids[-1]})
        if error["code"] != "syscall.unknown":
            break
        await asyncio.sleep(0.5)  # it has not been taken up yet
    assert (error["code"], error["field"]) == ("request.invalid", "id")
    await installation.operator.result("access", "agent.revoke", {"agent": agent.agent})


async def test_what_a_call_may_use_is_said_at_each_inbox_it_goes_on_for(installation: Installation) -> None:
    agent, running = await full(installation, tokens=10_000, tokens_window_s=3600)
    nc = await installation.server.connect("scheduler")
    try:
        passed: asyncio.Queue[dict[str, str]] = asyncio.Queue()

        async def listen(message: Msg) -> None:
            passed.put_nowait(dict(message.headers or {}))

        await nc.subscribe("aios.k.llm.chat", cb=listen)
        await settle(nc)
        call_id = new_syscall_id()
        await agent.send("llm", "chat", CHAT, headers={wire.DURABILITY: "volatile"}, call_id=call_id)
        await listed(agent, call_id)
        other = (await attach(agent, call_id))[0]
        await ended(agent, running)
        budgets: dict[str, str | None] = {}
        async with asyncio.timeout(20):
            while other not in budgets or len(budgets) < 1 + TWICE:
                headers = await passed.get()
                if headers[wire.ID] == call_id:
                    budgets[headers[wire.REPLY]] = headers.get(wire.BUDGET)
        assert None not in budgets.values()
        assert len(set(budgets.values())) == 1
        await ended(agent, call_id)
    finally:
        await nc.close()


async def test_who_attaches_to_a_parked_call_of_another_manager_takes_nothing_from_who_made_it(
    installation: Installation, memory: KernelPeer
) -> None:
    agent = await installation.agent()
    await ask_first(installation, agent, "memory.add")
    async with asyncio.timeout(60):
        while True:
            call_id = new_syscall_id()
            reply = await agent.send("memory", "add", {"content": "x"}, call_id=call_id)
            if (frame := await agent.inbox.next(reply))["type"] == "pending_approval":
                break  # else that replica has not heard of the policy yet
    for _ in range(TWICE):
        error = await agent.error("syscall", "attach", {"id": call_id})
        assert (error["code"], error["field"]) == ("request.invalid", "id")
    await installation.operator.result("access", "approve", {"approval_id": frame["approval_id"]})
    assert (await agent.inbox.until_end(reply, 20))[-1]["type"] == "done"


async def test_who_attaches_to_a_waiting_call_hears_that_it_was_cancelled(installation: Installation) -> None:
    agent, running = await full(installation)
    call_id, reply = await waiting(agent)
    others = await attach(agent, call_id)
    await ended(agent, call_id)
    for each in (reply, *others):
        assert (await agent.inbox.next(each, 20))["error"]["code"] == "syscall.cancelled"
    await ended(agent, running)


async def test_nobody_attaches_to_another_agents_waiting_call(installation: Installation) -> None:
    agent, running = await full(installation)
    other = await installation.agent()
    call_id, _ = await waiting(agent)
    parked_id, _, _ = await parked(installation, third := await installation.agent())
    for each in (call_id, parked_id):
        error = await other.error("syscall", "attach", {"id": each})
        assert (error["code"], error["field"]) == ("syscall.unknown", "id")
    assert (await agent.error("syscall", "attach", {"id": "no good!"}))["field"] == "id"
    for owner, each in ((agent, call_id), (agent, running), (third, parked_id)):
        await ended(owner, each)


async def test_who_attaches_to_a_parked_call_is_told_that_it_waits_and_how_it_goes_on(
    installation: Installation,
) -> None:
    agent = await installation.agent()
    call_id, reply, approval_id = await parked(installation, agent)
    others = await attach(agent, call_id)
    for each in others:
        frame = await agent.inbox.next(each)
        assert (frame["type"], frame["id"], frame["approval_id"]) == ("pending_approval", call_id, approval_id)
    await installation.operator.result("access", "approve", {"approval_id": approval_id})
    for each in (reply, *others):
        assert (await agent.inbox.next(each, 20))["type"] == "accepted"
    await listed(agent, call_id)
    # By now it is the scheduler's.
    late = await agent.send("syscall", "attach", {"id": call_id})
    await agent.result("syscall", "list")
    await ended(agent, call_id)
    for each in (reply, *others, late):
        assert (await agent.inbox.until_end(each, 20))[-1]["error"]["code"] == "syscall.cancelled"


async def test_who_attaches_to_a_parked_call_hears_that_it_was_refused_even_afterwards(
    installation: Installation,
) -> None:
    agent = await installation.agent()
    call_id, reply, approval_id = await parked(installation, agent)
    others = await attach(agent, call_id)
    await installation.operator.result("access", "deny", {"approval_id": approval_id, "reason": "not now"})
    late = await agent.send("syscall", "attach", {"id": call_id})
    for each in (reply, *others, late):
        end = (await agent.inbox.until_end(each, 20))[-1]
        assert (end["id"], end["error"]["code"]) == (call_id, "access.approval_denied")
        assert "not now" in end["error"]["message"]


async def test_an_agents_new_process_takes_up_calls_that_wait_for_a_quota_and_for_a_human(
    installation: Installation,
) -> None:
    token = await installation.create()
    raw = await installation.connect(token)
    nc = await installation.server.connect("llm")
    worker = ScriptedWorker(nc, limit=4)
    try:
        asked, _, approval_id = await parked(installation, raw)
        await installation.operator.result("access", "policy.put", {"name": raw.agent, "text": ""})
        await limit(installation, raw, concurrent_calls=1, wait_s=60)
        running = await begun(raw)
        queued, _ = await waiting(raw)
        async with Agent(token=token, url=installation.server.url) as restarted:
            calls = [restarted.calls.attach(each, deadline_s=60) for each in (asked, queued)]
            await calls[0].accepted()  # it was told that the call is parked
            for _ in range(2 * TWICE):
                await raw.result("syscall", "list")
            await worker.start()
            await installation.operator.result("access", "approve", {"approval_id": approval_id})
            for number in range(2):
                await worker.done(given := await worker.run(number))
                assert given.headers.id in (asked, running)
            given = await worker.run(2)
            assert given.headers.id == queued
            while not any(each["key"].endswith(queued) for each in worker.attached):
                await worker.wait(worker.attached, len(worker.attached) + 1)
            await worker.done(given)
            for attached in worker.attached:
                call_id = attached["key"].rpartition(".")[2]
                frame = replies.done(call_id, {"text": "there, too", "finish_reason": "stop", "model": worker.model})
                await nc.publish(attached["reply"], frame)
            assert [(await call).result["text"] for call in calls] == ["by w1", "there, too"]
    finally:
        await worker.stop()
        await nc.close()
