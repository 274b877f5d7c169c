"""A human's consent: asked for, given or refused, and the call runs once whatever dies meanwhile."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from support.frame_inbox import RawAgent
from support.nats_server import NatsServer, running_nats
from support.running_service import ServiceProcess, access_env, running_in_process, running_process

from aios_kit.service import Call, Service
from aios_kit.settings import ServiceSettings
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.ids import new_syscall_id
from aios_proto.messages.tool import ToolCallRequest, ToolCallResult, ToolRecord, ToolSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


class Rocket:
    """A tool that cannot be undone, behind a real service of the tool manager's role; it counts what it did."""

    def __init__(self, server: NatsServer) -> None:
        self.launched: list[str] = []
        settings = ServiceSettings(nats_url=server.url, nats_nkey_file=server.seed_file("tool"), instance="tools")
        self.service = Service("tool", settings)
        self.service.serve("tool", "call", self._call)

    async def _call(self, call: Call[ToolCallRequest]) -> ToolCallResult:
        self.launched.append(call.headers.id)
        return ToolCallResult(content=f"launched {call.body.arguments.get('where')}", tool=call.body.name)


async def declare(server: NatsServer, name: str, *effects: str) -> None:
    """A tool's record, as the tool manager writes it."""
    spec = ToolSpec(name=name, input_schema={}, effects=list(effects))
    record = ToolRecord(tool=spec, tenant="default", owner="keeper", source="agent", registered_ms=0)
    nc: Client = await server.connect("tool")
    try:
        bucket = await nc.jetstream().key_value(subjects.TOOLS_BUCKET)
        await bucket.put(f"default.{name}", record.model_dump_json().encode())
    finally:
        await nc.close()


class World:
    """A bus with access and the tool, an agent, and a human."""

    def __init__(self, server: NatsServer, access: ServiceProcess, human: RawAgent, rocket: Rocket) -> None:
        self.server = server
        self.access = access
        self.human = human
        self.rocket = rocket
        self.agents: list[RawAgent] = []
        self.tokens: dict[str, str] = {}

    async def agent(self, name: str, group: str = "agent") -> RawAgent:
        made = await self.human.result("access", "agent.create", {"agent": name, "group": group})
        self.tokens[name] = made["token"]
        agent = await RawAgent.connect(self.server.url, made["token"])
        self.agents.append(agent)
        return agent

    async def pending(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.human.result("access", "approvals"))["approvals"]
        return found


@contextlib.asynccontextmanager
async def world(folder: Path, **env: str) -> AsyncIterator[World]:
    with running_nats(folder) as server:
        async with running_process("aios_access", server, "access", access_env(server) | env) as access:
            rocket = Rocket(server)
            async with running_in_process(rocket.service):
                human = await RawAgent.connect(server.url, server.operator_token)
                await declare(server, "rocket", "irreversible")
                await declare(server, "clock", "read_only")
                made = World(server, access, human, rocket)
                yield made
                for agent in [human, *made.agents]:
                    await agent.close()


async def ask(agent: RawAgent, call_id: str | None = None, deadline_s: float | None = 60) -> tuple[str, dict[str, Any]]:
    """Calls the tool; gives the reply subject and the `pending_approval` frame."""
    headers = None if deadline_s is None else {wire.DEADLINE: str(int((time.time() + deadline_s) * 1000))}
    body = {"name": "rocket", "arguments": {"where": "moon"}}
    reply = await agent.send("tool", "call", body, headers=headers, call_id=call_id)
    frame = await agent.inbox.next(reply)
    assert frame["type"] == "pending_approval", frame
    return reply, frame


async def test_an_irreversible_call_waits_for_a_human_and_then_runs_once(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        agent = await made.agent("pilot")
        assert (await agent.call("tool", "call", {"name": "clock"}))["type"] == "done"
        made.rocket.launched.clear()
        reply, frame = await ask(agent)
        shown = await made.pending()
        assert [each["approval_id"] for each in shown] == [frame["approval_id"]]
        assert (shown[0]["agent"], shown[0]["operation"]) == ("pilot", "tool.call")
        assert '"where":"moon"' in shown[0]["summary"]
        assert "default:agent-irreversible" in shown[0]["why"]
        assert shown[0]["taint"] == ["tool:clock"]
        assert made.rocket.launched == []

        decision = {"approval_id": frame["approval_id"], "reason": "go"}
        info = await made.human.result("access", "approve", decision)
        assert (info["state"], info["decided_by"]) == ("approved", "operator")
        assert (await agent.inbox.until_end(reply))[-1]["result"]["content"] == "launched moon"
        assert len(made.rocket.launched) == 1
        assert await made.pending() == []
        again = await made.human.error("access", "approve", decision)
        assert again["code"] == "resource.conflict"


async def test_a_refused_call_ends_with_the_reason_and_never_runs(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        agent = await made.agent("pilot")
        reply, frame = await ask(agent, call_id := new_syscall_id())
        await made.human.result("access", "deny", {"approval_id": frame["approval_id"], "reason": "no fuel"})
        error = (await agent.inbox.until_end(reply))[-1]["error"]
        assert error["code"] == "access.approval_denied"
        assert "no fuel" in error["message"]
        repeated = await agent.error("tool", "call", {"name": "rocket"}, call_id=call_id)
        assert repeated["code"] == "access.approval_denied"
        assert made.rocket.launched == []


async def test_who_may_not_decide_cannot(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        agent = await made.agent("pilot")
        other = await made.agent("copilot")
        boss = await made.agent("boss", group="operator")
        _, frame = await ask(agent)
        decision = {"approval_id": frame["approval_id"]}
        for operation in ("approve", "deny"):
            for caller in (agent, other):
                assert (await caller.error("access", operation, decision))["code"] == "access.denied"
        # Not even an operator's own call.
        _, own = await ask_as_operator(made, boss)
        mine = await boss.error("access", "approve", {"approval_id": own["approval_id"]})
        assert mine["code"] == "access.denied"
        unknown = await made.human.error("access", "approve", {"approval_id": "0" * 24})
        assert unknown["code"] == "resource.not_found"
        assert (await made.human.error("access", "approve", {"approval_id": "../x"}))["code"] == "request.invalid"
        assert made.rocket.launched == []


async def ask_as_operator(made: World, boss: RawAgent) -> tuple[str, dict[str, Any]]:
    policy = '@ask("always")\npermit(principal, action == Action::"tool.call", resource);'
    await made.human.result("access", "policy.put", {"name": "strict", "text": policy})
    return await ask(boss)


async def test_a_call_nobody_answers_expires(tmp_path: Path) -> None:
    async with world(tmp_path, AIOS_ACCESS_APPROVAL_TIMEOUT_S="1") as made:
        agent = await made.agent("pilot")
        reply, frame = await ask(agent, deadline_s=None)
        error = (await agent.inbox.until_end(reply))[-1]["error"]
        assert error["code"] == "access.approval_denied"
        assert "nobody answered" in error["message"]
        late = await made.human.error("access", "approve", {"approval_id": frame["approval_id"]})
        assert late["code"] == "resource.conflict"
        assert made.rocket.launched == []


async def test_a_tenants_list_of_waiting_calls_has_an_end(tmp_path: Path) -> None:
    async with world(tmp_path, AIOS_ACCESS_APPROVALS_PER_TENANT="2") as made:
        agent = await made.agent("pilot")
        frames = [(await ask(agent))[1] for _ in range(2)]
        refused = await agent.error("tool", "call", {"name": "rocket"})
        assert refused["code"] == "queue.full"
        await made.human.result("access", "deny", {"approval_id": frames[0]["approval_id"]})
        await ask(agent)


async def test_the_same_call_sent_twice_is_asked_about_once_and_answers_where_it_was_asked_last(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        agent = await made.agent("pilot")
        call_id = new_syscall_id()
        _, first = await ask(agent, call_id)
        reply, second = await ask(agent, call_id)
        assert first["approval_id"] == second["approval_id"]
        assert len(await made.pending()) == 1
        await made.human.result("access", "approve", {"approval_id": first["approval_id"]})
        assert (await agent.inbox.until_end(reply))[-1]["type"] == "done"
        changed = await agent.error("tool", "call", {"name": "rocket"}, call_id=call_id)
        assert changed["code"] == "resource.conflict"
        assert len(made.rocket.launched) == 1


async def test_a_call_of_an_agent_that_was_revoked_meanwhile_does_not_run(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        agent = await made.agent("pilot")
        _, frame = await ask(agent)
        await made.human.result("access", "agent.revoke", {"agent": "pilot"})
        refused = await made.human.error("access", "approve", {"approval_id": frame["approval_id"]})
        assert refused["code"] == "resource.conflict"
        assert made.rocket.launched == []


async def test_a_waiting_call_is_cancelled_by_its_agent_and_never_runs(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        agent, other = await made.agent("pilot"), await made.agent("copilot")
        reply, frame = await ask(agent, call_id := new_syscall_id())
        # Nobody else's business.
        assert (await other.error("syscall", "cancel", {"id": call_id}))["code"] == "manager.unavailable"
        cancelled = await agent.result("syscall", "cancel", {"id": call_id})
        assert cancelled == {"id": call_id, "state": "parked"}
        assert (await agent.inbox.until_end(reply))[-1]["error"]["code"] == "syscall.cancelled"
        assert (await agent.result("syscall", "cancel", {"id": call_id}))["state"] == "ended"
        shown = (await made.human.result("access", "approvals", {"all": True}))["approvals"]
        assert [(each["approval_id"], each["state"]) for each in shown] == [(frame["approval_id"], "cancelled")]
        assert await made.pending() == []
        late = await made.human.error("access", "approve", {"approval_id": frame["approval_id"]})
        assert late["code"] == "resource.conflict"
        assert (await agent.error("tool", "call", {"name": "rocket"}, call_id=call_id))["code"] == "syscall.cancelled"
        assert made.rocket.launched == []
        assert agent.inbox.waiting(reply) == 0


async def test_an_approved_call_that_nobody_has_begun_can_still_be_cancelled(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        agent = await made.agent("pilot")
        for subscriber in made.rocket.service._subscribers:  # the tool manager is away
            await subscriber.subscription.unsubscribe()
        await made.rocket.service.nc.flush()
        reply, frame = await ask(agent, call_id := new_syscall_id())
        await made.human.result("access", "approve", {"approval_id": frame["approval_id"]})
        assert (await agent.result("syscall", "cancel", {"id": call_id}))["state"] == "queued"
        assert (await agent.inbox.until_end(reply))[-1]["error"]["code"] == "syscall.cancelled"
        back = Rocket(made.server)
        async with running_in_process(back.service):
            reply, frame = await ask(agent, later := new_syscall_id())
            await made.human.result("access", "approve", {"approval_id": frame["approval_id"]})
            assert (await agent.inbox.until_end(reply, timeout_s=20))[-1]["type"] == "done"
            assert back.launched == [later]


async def test_waiting_calls_are_among_the_open_calls_of_their_agent(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        agent = await made.agent("pilot")
        # Without a scheduler nobody knows all of them.
        assert (await agent.error("syscall", "list"))["code"] == "manager.unavailable"
        async with running_process("aios_scheduler", made.server, "scheduler", wait_ready=False) as scheduler:
            await scheduler.logged("holds the lease")
            _, frame = await ask(agent, call_id := new_syscall_id())
            async with asyncio.timeout(20):
                while (listed := await agent.call("syscall", "list"))["type"] == "error":
                    assert listed["error"]["code"] == "manager.unavailable"  # the scheduler is not there yet
            (open_call,) = listed["result"]["calls"]
            assert (open_call["id"], open_call["operation"]) == (call_id, "tool.call")
            assert (open_call["state"], open_call["deadline_ms"]) == ("parked", frame["expires_ms"])
            unknown = await agent.error("syscall", "cancel", {"id": "nothing"})
            assert (unknown["code"], unknown["field"]) == ("syscall.unknown", "id")


async def test_a_consent_survives_kill_9_of_access_and_a_restart_of_the_bus(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        agent = await made.agent("pilot")
        reply, frame = await ask(agent)
        await made.access.kill()
        made.server.kill()
        made.server.restart()
        async with running_process("aios_access", made.server, "access", access_env(made.server)):
            # The same two on new connections: what is tested is the kernel's memory, not a client's patience.
            human = await patiently(made.server, made.server.operator_token)
            again = await patiently(made.server, made.tokens["pilot"])
            waiting = (await human.result("access", "approvals"))["approvals"]
            assert [each["approval_id"] for each in waiting] == [frame["approval_id"]]
            await human.result("access", "approve", {"approval_id": frame["approval_id"]})
            assert (await again.inbox.until_end(reply, timeout_s=20))[-1]["type"] == "done"
            await human.close()
            await again.close()
        assert len(made.rocket.launched) == 1


async def test_an_approved_call_that_access_could_not_send_is_sent_by_the_next_and_runs_once(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        agent = await made.agent("pilot")
        reply, frame = await ask(agent)
        # The tool manager is away: the approved call goes nowhere, and the access that sent it dies.
        assert made.rocket.service.nc.is_connected
        await made.rocket.service.lane.drain()
        for subscriber in made.rocket.service._subscribers:
            await subscriber.subscription.unsubscribe()
        await made.human.result("access", "approve", {"approval_id": frame["approval_id"]})
        await made.access.kill()
        assert made.rocket.launched == []
        again = Rocket(made.server)
        async with (
            running_process("aios_access", made.server, "access", access_env(made.server), instance="a-2"),
            running_process("aios_access", made.server, "access", access_env(made.server), instance="a-3"),
            running_in_process(again.service),
        ):
            assert (await agent.inbox.until_end(reply, timeout_s=20))[-1]["type"] == "done"
            assert len(again.launched) == 1


async def test_an_approved_call_delivered_many_times_runs_once(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        agent = await made.agent("pilot")
        nc = await made.server.connect("access")
        seen: asyncio.Queue[tuple[bytes, dict[str, str]]] = asyncio.Queue()

        async def listen(message: Any) -> None:
            seen.put_nowait((message.data, dict(message.headers)))

        tool = await made.server.connect("tool")
        await tool.subscribe("aios.k.tool.call", cb=listen)
        await tool.flush()
        reply, frame = await ask(agent)
        await made.human.result("access", "approve", {"approval_id": frame["approval_id"]})
        body, headers = await asyncio.wait_for(seen.get(), 10)
        assert headers[wire.APPROVAL] == frame["approval_id"]
        for _ in range(20):
            await nc.publish("aios.k.tool.call", body, headers=headers)
        await nc.flush()
        frames = await agent.inbox.until_end(reply)
        assert frames[-1]["type"] == "done"
        # A call of another agent passes the same handler after all of them.
        assert (await agent.call("tool", "call", {"name": "clock"}))["type"] == "done"
        assert len(made.rocket.launched) == 2
        await nc.close()
        await tool.close()


async def patiently(server: NatsServer, token: str) -> RawAgent:
    async with asyncio.timeout(30):
        while True:
            try:
                return await RawAgent.connect(server.url, token)
            except (NatsError, OSError):
                await asyncio.sleep(0.1)
