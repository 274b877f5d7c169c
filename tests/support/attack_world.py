"""The world the attacks run in: a provisioned bus, a real access, every manager scripted, attackers and a victim.

What is an effect here: a message that reaches a manager, a frame in the victim's inbox, an identity, policy or approval
that changed. `untouched` says that there was none.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nats.aio.client import Client
from nats.errors import Error as NatsError
from support.audit_reader import AuditReader
from support.frame_inbox import Frame, RawAgent, connect_once
from support.kernel_peer import KernelPeer, kernel_peer
from support.nats_server import NatsServer, running_nats, settle
from support.running_service import ServiceProcess, access_env, running_process

from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.ids import new_syscall_id
from aios_proto.messages.tool import ToolRecord, ToolSpec
from aios_proto.names import is_syscall_id
from aios_proto.permissions import Role

Risk = Literal["ASI01", "ASI02", "ASI03", "ASI04", "ASI05", "ASI06", "ASI07", "ASI08", "ASI09", "ASI10"]
"""OWASP Top 10 for Agentic Applications (2026): goal hijack, tool misuse, identity and privilege abuse, supply chain,
code execution, memory and context poisoning, inter-agent communication, cascading failures, human trust, rogue agents.
"""

TENANT, OTHER_TENANT = "default", "acme"

CONTAINMENT = """
@id("no-undo-when-tainted")
forbid(principal, action == Action::"tool.call", resource)
when { context.tainted && resource.effects.contains("irreversible") };
@id("no-delete-when-tainted")
forbid(principal, action in [Action::"storage.delete", Action::"storage.share"], resource) when { context.tainted };
@id("vault")
forbid(principal in Group::"agent", action, resource is File) when { resource.name like "vault/*" };
"""

_PEERS: tuple[tuple[Role, str, str | None], ...] = (
    ("memory", "memory", None),
    ("storage", "storage", None),
    ("tool", "tool", None),
    ("context", "context", None),
    ("scheduler", "llm", "aios.k.llm.*"),
    ("scheduler", "syscall", "aios.k.syscall.*"),
    ("scheduler", "scheduler", None),
)


@dataclass(frozen=True, slots=True)
class CallAttack:
    """A system call that must be refused.

    Attributes:
        name: what is tried.
        risk: OWASP's number.
        operation: `manager.operation`; anything may stand there.
        code: with which it must be refused; `pending` where a human must be asked instead.
        who: the role that attacks: `agent`, `guest`, `boss` (operator of another tenant) or `tainted` (an agent whose
            program has called a tool).
    """

    name: str
    risk: Risk
    operation: str
    code: str
    body: object = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    who: str = "agent"
    reply: str | None = None
    call_id: str | None = None


class AttackWorld:
    """See the module."""

    def __init__(
        self,
        server: NatsServer,
        access: ServiceProcess,
        operator: RawAgent,
        peers: list[KernelPeer],
        audit: AuditReader,
    ) -> None:
        self.server = server
        self.access = access
        self.operator = operator
        self.peers = peers
        self.audit = audit
        self.agents: dict[str, RawAgent] = {}
        self.tokens: dict[str, str] = {}

    async def add(self, name: str, group: str, tenant: str = TENANT) -> RawAgent:
        """A new agent, connected."""
        made = await self.operator.result("access", "agent.create", {"agent": name, "group": group, "tenant": tenant})
        self.tokens[name] = made["token"]
        agent = self.agents[name] = await RawAgent.connect(self.server.url, made["token"])
        return agent

    @property
    def victim(self) -> RawAgent:
        return self.agents["victim"]

    def effects(self) -> tuple[int, ...]:
        """What could have changed, counted."""
        return (*(len(peer.received) for peer in self.peers), self.frames_at_victim())

    def frames_at_victim(self) -> int:
        return sum(queue.qsize() for queue in self.victim.inbox._queues.values())

    @contextlib.asynccontextmanager
    async def untouched(self) -> AsyncIterator[None]:
        """Nothing happens to anyone while the block runs."""
        before = self.effects()
        yield
        await settle(self.victim.nc)
        for peer in self.peers:
            await settle(peer.nc)
        assert self.effects() == before, "the attack had an effect"

    async def refused_call(self, attack: CallAttack) -> Frame:
        """Makes the call; checks the code, that nothing happened, and what the log says."""
        attacker = self.agents[attack.who]
        manager, _, operation = attack.operation.partition(".")
        call_id = attack.call_id if attack.call_id is not None else new_syscall_id()
        headers = dict(attack.headers)
        if wire.PROGRAM not in headers and attack.who != "tainted":
            headers[wire.PROGRAM] = f"run-{call_id}" if is_syscall_id(call_id) and len(call_id) < 60 else "run"
        started_us = time.time_ns() // 1000
        async with self.untouched():
            reply = await attacker.send(
                manager, operation, attack.body, headers=headers, reply=attack.reply, call_id=call_id
            )
            if attack.code == "access.reply_forbidden":
                reply = f"{attacker.inbox.prefix}.refused"
            frame = await attacker.inbox.next(reply)
        if attack.code == "pending":
            assert frame["type"] == "pending_approval", frame
            decided = await self.decision(attacker, call_id, started_us, attack)
            assert decided["effect"] == "ask"
            return frame
        assert frame["type"] == "error", frame
        assert frame["error"]["code"] == attack.code, frame
        decided = await self.decision(attacker, call_id, started_us, attack)
        assert decided["code"] == attack.code
        assert decided["effect"] in ("deny", "refuse")
        return frame

    async def decision(self, attacker: RawAgent, call_id: str, since_us: int, attack: CallAttack) -> dict[str, Any]:
        """What the log says was decided about this call."""
        logged_id = (
            call_id if is_syscall_id(call_id) and attack.headers.get(wire.ID, call_id) == call_id else "unreadable"
        )

        def ours(record: dict[str, Any]) -> bool:
            return bool(
                record["kind"] == "decision"
                and record["id"] == logged_id
                and record["agent"] == attacker.agent
                and record["at_us"] >= since_us
                and record.get("code", "pending") == attack.code
            )

        return await self.audit.find(attacker.tenant, ours)

    async def refused_publish(self, subject: str, body: bytes = b"{}", reply: str = "") -> None:
        """Publishes to the bus where an agent may not; the server must say so and nothing may happen."""
        attacker = await self.fresh("agent")
        async with self.untouched():
            await attacker.nc.publish(subject, body, reply=reply)
            await settle(attacker.nc)
        assert any("permissions violation" in error for error in attacker.errors), attacker.errors
        await attacker.close()

    async def refused_subscription(self, subject: str, queue: str = "") -> None:
        """Listens where an agent may not; the server must say so."""
        attacker = await self.fresh("agent")
        heard: list[object] = []

        async def hear(message: object) -> None:
            heard.append(message)

        await attacker.nc.subscribe(subject, queue=queue, cb=hear)
        await settle(attacker.nc)
        assert any("permissions violation" in error for error in attacker.errors), attacker.errors
        # There is something to hear: the victim calls and is answered.
        await self.victim.call("access", "whoami")
        await settle(attacker.nc)
        assert heard == []
        await attacker.close()

    async def fresh(self, who: str) -> RawAgent:
        """Another connection of the same agent, with its own list of errors."""
        return await RawAgent.connect(self.server.url, self.tokens[who])

    async def refused_connection(self, **options: Any) -> None:
        """Nobody may come in with these."""
        errors: list[str] = []

        async def quiet(error: Exception) -> None:
            errors.append(str(error))

        try:
            nc = await connect_once(self.server.url, error_cb=quiet, **options)
        except (NatsError, OSError, TimeoutError):
            return
        await nc.close()
        raise AssertionError("a stranger was let in")


async def declare(server: NatsServer, tenant: str, name: str, *effects: Any) -> None:
    """A tool's record, as the tool manager writes it."""
    spec = ToolSpec(name=name, input_schema={}, effects=list(effects))
    record = ToolRecord(tool=spec, tenant=tenant, owner="keeper", source="agent", registered_ms=0)
    nc: Client = await server.connect("tool")
    try:
        bucket = await nc.jetstream().key_value(subjects.TOOLS_BUCKET)
        await bucket.put(f"{tenant}.{name}", record.model_dump_json().encode())
    finally:
        await nc.close()


@contextlib.asynccontextmanager
async def attack_world(folder: Path) -> AsyncIterator[AttackWorld]:
    """The world, until the block ends."""
    with running_nats(folder) as server:
        async with (
            running_process("aios_access", server, "access", access_env(server)) as access,
            contextlib.AsyncExitStack() as stack,
        ):
            peers = [
                await stack.enter_async_context(kernel_peer(server, role, manager, pattern=pattern))
                for role, manager, pattern in _PEERS
            ]
            operator = await RawAgent.connect(server.url, server.operator_token)
            audit = await AuditReader.connect(server)
            world = AttackWorld(server, access, operator, peers, audit)
            for tenant in (TENANT, OTHER_TENANT):
                await declare(server, tenant, "wipe", "irreversible")
                await declare(server, tenant, "fetch", "read_only")
            await operator.result("access", "policy.put", {"name": "containment", "text": CONTAINMENT})
            await world.add("agent", "agent")
            await world.add("guest", "guest")
            await world.add("victim", "agent")
            await world.add("tainted", "agent")
            await world.add("boss", "operator", OTHER_TENANT)
            await world.add("worker", "agent", OTHER_TENANT)
            try:
                yield world
            finally:
                for agent in [*world.agents.values(), operator]:
                    await agent.close()
                await audit.close()
