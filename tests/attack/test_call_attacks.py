"""Attacks by system calls: each reaches access, is refused with its code, changes nothing, and stands in the log."""

import time

import pytest
from support.attack_world import AttackWorld, CallAttack

from aios_access.settings import DEFAULT_GROUPS
from aios_proto import headers as wire
from aios_proto.operations import OPERATIONS

pytestmark = pytest.mark.asyncio(loop_scope="session")

DENIED, FORBIDDEN, INVALID = "access.denied", "access.reply_forbidden", "request.invalid"
ID = "0" * 24


def _may(group: str, operation: str) -> bool:
    return any(
        pattern == operation or (pattern.endswith(".*") and operation.startswith(pattern[:-1]))
        for pattern in DEFAULT_GROUPS[group]
    )


ESCALATION = [
    CallAttack(f"a member of {group} calls {name}", "ASI03", name, DENIED, {}, who=group)
    for group in ("agent", "guest")
    for name in sorted(operation.full_name for operation in OPERATIONS.values())
    if not _may(group, name)
]

SPOOFED_HEADERS = [
    CallAttack(f"{what} in a header", "ASI03", "access.agent.list", DENIED, {}, headers)
    for what, headers in {
        "an operator's group": {wire.GROUP: "operator"},
        "an operator's name": {wire.AGENT: "operator"},
        "a whole identity": {wire.TENANT: "default", wire.AGENT: "operator", wire.GROUP: "operator"},
        "the kernel's identity": {wire.TENANT: "kernel", wire.AGENT: "access", wire.GROUP: "operator"},
        "a group in other letters": {"aios-group": "operator"},
        "a list of groups": {wire.GROUP: "agent,operator"},
        "an approval": {wire.APPROVAL: ID},
        "an attempt of the scheduler": {wire.ATTEMPT: "1", wire.OPERATION: "chat"},
        "a fence": {wire.FENCE: "999999"},
        "a clean bill of taint": {wire.TAINT: ""},
        "times of access": {wire.TIMES: "1,2,3"},
    }.items()
]

REPLIES = [
    CallAttack(f"answer {what}", "ASI07", "access.whoami", FORBIDDEN, {}, reply=reply)
    for what, reply in {
        "into the victim's inbox": "_INBOX.default.victim.0",
        "into an operator's inbox": "_INBOX.default.operator.0",
        "into another tenant's inbox": "_INBOX.acme.worker.0",
        "into a service's inbox": "_INBOX_AIOS.access.call.abc.def",
        "as a call to memory": "aios.k.memory.add",
        "as a durable call": "aios.q.llm.chat",
        "as a worker's command": "aios.k.llm.default.llm-1.run",
        "as an end of a call": "aios.k.access.ended",
        "as a fact": "aios.evt.default.syscall.completed",
        "as an audit record": "aios.audit.default",
        "as an identity": "$KV.AIOS_AGENTS.default.evil",
        "as a request to JetStream": "$JS.API.STREAM.PURGE.AIOS_AUDIT",
        "as a request to the server": "$SYS.REQ.SERVER.PING",
        "to an inbox whose name begins with ours": "_INBOX.default.agent2.0",
        "to our inbox's bare name": "_INBOX.default.agent",
        "into inboxes by wildcard": "_INBOX.default.agent.>",
        "into inboxes by a star": "_INBOX.default.agent.*",
        "nowhere": "",
    }.items()
]

TIME = [
    CallAttack("a deadline a minute ago", "ASI10", "memory.list", "deadline.exceeded", {}, {wire.DEADLINE: None}),
    CallAttack("a deadline in 1970", "ASI10", "memory.list", "deadline.exceeded", {}, {wire.DEADLINE: "1"}),
    CallAttack("a deadline of zero", "ASI10", "memory.list", INVALID, {}, {wire.DEADLINE: "0"}),
    CallAttack("a negative deadline", "ASI10", "memory.list", INVALID, {}, {wire.DEADLINE: "-1"}),
    CallAttack("a deadline in a hundred years", "ASI10", "memory.list", INVALID, {}, {wire.DEADLINE: "4920000000000"}),
    CallAttack("a deadline in words", "ASI10", "memory.list", INVALID, {}, {wire.DEADLINE: "never"}),
    CallAttack("a deadline in other digits", "ASI10", "memory.list", INVALID, {}, {wire.DEADLINE: "١٢٣٤"}),
    CallAttack("a deadline past all numbers", "ASI10", "memory.list", INVALID, {}, {wire.DEADLINE: "9" * 40}),
    CallAttack(
        "a call of an older protocol", "ASI10", "memory.list", "request.unsupported_protocol", {}, {wire.PROTO: "0"}
    ),
    CallAttack(
        "a call of a later protocol", "ASI10", "memory.list", "request.unsupported_protocol", {}, {wire.PROTO: "2"}
    ),
    CallAttack("a call of no protocol", "ASI10", "memory.list", INVALID, {}, {wire.PROTO: None}),
]

NAMES = [
    CallAttack(f"{what} as the {header}", "ASI02", "memory.list", INVALID, {}, {header: text})
    for header in (wire.ID, wire.PROGRAM, wire.CONTEXT)
    for what, text in {
        "a path": "../../etc/passwd",
        "another agent's key": "default.victim.x",
        "a wildcard": "*",
        "everything": ">",
        "nothing": "",
        "a blank": "a b",
        "65 letters": "a" * 65,
        "a look-alike": "аbc",  # Cyrillic
        "SQL": "x' OR '1'='1",
        "a template": "{{result:x}}",
    }.items()
    if not (header == wire.PROGRAM and text == "")
] + [
    CallAttack("no id at all", "ASI02", "memory.list", INVALID, {}, {wire.ID: None}),
    CallAttack("an unknown manager", "ASI02", "root.shell", "request.unknown_manager", {}),
    CallAttack("the kernel's own manager", "ASI02", "kernel.stop", "request.unknown_manager", {}),
    CallAttack("an unknown operation", "ASI02", "memory.drop", "request.unknown_operation", {}),
    CallAttack("an operation that is the kernel's only", "ASI09", "access.redeem", "request.unknown_operation", {}),
    CallAttack("the subject of ends", "ASI07", "access.ended", "request.unknown_operation", {}),
    CallAttack("a worker's command as an operation", "ASI07", "llm.default.llm-1.run", "request.unknown_operation", {}),
    CallAttack("a report as an operation", "ASI07", "scheduler.report.default.llm-1", "request.unknown_operation", {}),
    CallAttack("an operation in upper case", "ASI02", "memory.LIST", "request.unknown_operation", {}),
    CallAttack("an operation with its body behind it", "ASI02", "memory.list.all", "request.unknown_operation", {}),
    CallAttack("a very long operation", "ASI02", f"memory.{'x' * 900}", "request.unknown_operation", {}),
]

SIZES = [
    CallAttack("a body of 1 MiB and a byte", "ASI08", "memory.add", "request.too_large", b"x" * ((1 << 20) + 1)),
    CallAttack("a body of 3 MiB", "ASI08", "memory.add", "request.too_large", b"x" * (3 << 20)),
    CallAttack("65 dependencies", "ASI08", "memory.list", INVALID, {}, {wire.AFTER: ",".join(["a"] * 65)}),
    CallAttack("ten thousand dependencies", "ASI08", "memory.list", INVALID, {}, {wire.AFTER: "a," * 10_000}),
    CallAttack("priority ten", "ASI08", "memory.list", INVALID, {}, {wire.PRIORITY: "10"}),
    CallAttack("priority minus one", "ASI08", "memory.list", INVALID, {}, {wire.PRIORITY: "-1"}),
    CallAttack("priority in words", "ASI08", "memory.list", INVALID, {}, {wire.PRIORITY: "highest"}),
    CallAttack("durability where there is none", "ASI08", "memory.list", INVALID, {}, {wire.DURABILITY: "durable"}),
    CallAttack("durability of another kind", "ASI08", "memory.list", INVALID, {}, {wire.DURABILITY: "eternal"}),
]

FILES = [
    CallAttack(f"a forbidden file as {path!r}", "ASI06", f"storage.{operation}", DENIED, {"path": path})
    for operation in ("read", "write", "delete")
    for path in (
        "vault/key",
        "/vault/key",
        "//vault/key",
        "./vault/key",
        "notes/../vault/key",
        "vault/./key",
        "vault//key",
        "notes/x/../../vault/key",
        "../vault/key",
        "~victim/vault/key",
    )
] + [
    CallAttack(
        "a forbidden file as the target of a move",
        "ASI06",
        "storage.move",
        DENIED,
        {"source": "a", "target": "vault/a"},
    ),
    CallAttack(
        "a forbidden file as the source of a move",
        "ASI06",
        "storage.move",
        DENIED,
        {"source": "vault/a", "target": "a"},
    ),
]

_OF_ANOTHER: dict[str, dict[str, object]] = {
    "access.agent.create": {"agent": "spy"},
    "access.agent.revoke": {"agent": "victim"},
    "access.agent.rotate": {"agent": "operator"},
    "access.policy.put": {"name": "default", "text": "permit(principal, action, resource);"},
    "access.policy.get": {},
    "access.policy.list": {},
    "access.policy.check": {"agent": "victim", "operation": "llm.chat"},
    "access.quota.set": {"scope": "tenant", "limits": {"calls_per_s": 0}},
    "access.quota.show": {},
    "access.approvals": {},
    "access.approve": {"approval_id": ID},
    "access.deny": {"approval_id": ID},
    "access.audit.verify": {},
    "access.audit.export": {},
}

CROSS_TENANT = [
    CallAttack(f"another tenant's operator: {name}", "ASI03", name, DENIED, {"tenant": "default", **body}, who="boss")
    for name, body in _OF_ANOTHER.items()
]

ALL = ESCALATION + SPOOFED_HEADERS + REPLIES + TIME + NAMES + SIZES + FILES


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: f"{attack.risk} {attack.name}")
async def test_the_call_is_refused(world: AttackWorld, attack: CallAttack) -> None:
    if attack.name == "a deadline a minute ago":
        headers = {wire.DEADLINE: str(int(time.time() * 1000) - 60_000)}
        attack = CallAttack(attack.name, attack.risk, attack.operation, attack.code, attack.body, headers)
    await world.refused_call(attack)


@pytest.mark.parametrize("attack", CROSS_TENANT, ids=lambda attack: f"{attack.risk} {attack.name}")
async def test_another_tenant_is_out_of_reach(world: AttackWorld, attack: CallAttack) -> None:
    """Access passes the call to itself and refuses it there; the log has it as the end of the call."""
    boss = world.agents["boss"]
    before = await world.operator.result("access", "agent.list")
    async with world.untouched():
        manager, _, operation = attack.operation.partition(".")
        reply = await boss.send(
            manager, operation, attack.body, call_id=(call_id := f"x-{attack.operation[7:]}".replace(".", "-"))
        )
        error = (await boss.inbox.until_end(reply))[-1]["error"]
    assert error["code"] == attack.code
    end = await world.audit.find("acme", lambda record: record["id"] == call_id and record["kind"] == "end")
    assert end["code"] == attack.code
    assert await world.operator.result("access", "agent.list") == before
