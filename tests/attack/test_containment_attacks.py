"""Attacks in several steps: injected content that wants to act, consent that is faked or used twice, floods.

The tenant's policy forbids what cannot be undone in a program that has taken in untrusted content. Each way of washing
that mark off must end in the same refusal.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from support.attack_world import AttackWorld, CallAttack, declare

from aios_proto import headers as wire
from aios_proto.ids import new_syscall_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

WIPE = {"name": "wipe", "arguments": {"what": "everything"}}
FETCH = {"name": "fetch", "arguments": {"url": "https://example.org/injected"}}

Step = tuple[str, object, str, str | None]


@dataclass(frozen=True)
class Injection:
    """How untrusted content comes in and is passed on before the act.

    Attributes:
        steps: operation, body, program and context of each call before the act; these pass.
        program: the one that acts.
        context: on which context it acts.
        act: the operation that must be denied.
    """

    steps: Sequence[Step]
    program: str = "p1"
    context: str | None = None
    act: str = "tool.call"
    body: object = None


INJECTIONS = {
    "a tool's output asks to wipe": Injection([("tool.call", FETCH, "p1", None)]),
    "a tool's output asks to delete a file": Injection(
        [("tool.call", FETCH, "p1", None)], act="storage.delete", body={"path": "notes/x"}
    ),
    "a tool's output asks to share a file": Injection(
        [("tool.call", FETCH, "p1", None)], act="storage.share", body={"path": "notes/x", "agent": "victim"}
    ),
    "a note in shared memory asks to wipe": Injection([("memory.search", {"query": "x", "pool": "news"}, "p1", None)]),
    "a listed note in shared memory asks to wipe": Injection([("memory.list", {"pool": "news"}, "p1", None)]),
    "a note of a pool read by its id asks to wipe": Injection(
        [("memory.get", {"memory_id": "m", "pool": "news"}, "p1", None)]
    ),
    "another agent's note asks to wipe": Injection([("memory.get", {"memory_id": "m", "agent": "victim"}, "p1", None)]),
    "another agent's file asks to wipe": Injection([("storage.read", {"path": "~victim/x"}, "p1", None)]),
    "another agent's file by a rooted path asks to wipe": Injection(
        [("storage.read", {"path": "/~victim/x"}, "p1", None)]
    ),
    "a file of a mounted folder asks to wipe": Injection([("storage.read", {"path": "@host/x"}, "p1", None)]),
    "an injected memory of a pool asks to wipe": Injection(
        [("memory.inject", {"query": "x", "budget_tokens": 16, "pool": "news"}, "p1", None)]
    ),
    "another agent's context asks to wipe": Injection(
        [("context.get", {"context": "c", "owner": "victim"}, "p1", None)]
    ),
    "the act comes many calls later": Injection(
        [("tool.call", FETCH, "p1", None), *[("memory.list", {}, "p1", None)] * 10]
    ),
    "the mark is washed off by a context of the header": Injection(
        [("tool.call", FETCH, "p1", None), ("llm.chat", {"messages": []}, "p1", "c1")], program="p2", context="c1"
    ),
    "the mark is washed off by appending to a context": Injection(
        [
            ("tool.call", FETCH, "p1", None),
            ("context.append", {"context": "c2"}, "p1", None),
            ("context.get", {"context": "c2"}, "p2", None),
        ],
        program="p2",
    ),
    "the mark is washed off by a window of a context": Injection(
        [
            ("tool.call", FETCH, "p1", None),
            ("context.append", {"context": "c3"}, "p1", None),
            ("context.window", {"context": "c3"}, "p2", None),
        ],
        program="p2",
    ),
    "the mark is washed off by a fork": Injection(
        [
            ("tool.call", FETCH, "p1", None),
            ("context.append", {"context": "c4"}, "p1", None),
            ("context.fork", {"context": "c4", "fork": "c5"}, "p1", None),
        ],
        program="p2",
        context="c5",
    ),
    "the mark is washed off by a fork of a fork": Injection(
        [
            ("tool.call", FETCH, "p1", None),
            ("context.append", {"context": "c6"}, "p1", None),
            ("context.fork", {"context": "c6", "fork": "c7"}, "p2", None),
            ("context.fork", {"context": "c7", "fork": "c8"}, "p3", None),
        ],
        program="p4",
        context="c8",
    ),
    "the mark is washed off by a snapshot": Injection(
        [
            ("tool.call", FETCH, "p1", None),
            ("context.append", {"context": "c9"}, "p1", None),
            ("context.snapshot", {"context": "c9"}, "p1", None),
            ("context.restore", {"snapshot": "s"}, "p2", None),
        ],
        program="p2",
    ),
    "the mark is washed off by a note of one's own": Injection(
        [
            ("tool.call", FETCH, "p1", None),
            ("memory.add", {"content": "x"}, "p1", None),
            ("memory.search", {"query": "x"}, "p2", None),
        ],
        program="p2",
    ),
    "the mark is washed off by a changed note": Injection(
        [
            ("tool.call", FETCH, "p1", None),
            ("memory.update", {"memory_id": "m", "content": "x"}, "p1", None),
            ("memory.get", {"memory_id": "m"}, "p2", None),
        ],
        program="p2",
    ),
    "the mark is washed off by a file of one's own": Injection(
        [
            ("tool.call", FETCH, "p1", None),
            ("storage.write", {"path": "x"}, "p1", None),
            ("storage.read", {"path": "x"}, "p2", None),
        ],
        program="p2",
    ),
    "the mark is washed off by moving a file": Injection(
        [
            ("tool.call", FETCH, "p1", None),
            ("storage.move", {"source": "x", "target": "y"}, "p1", None),
            ("storage.search", {"query": "y"}, "p2", None),
        ],
        program="p2",
    ),
    "the mark is washed off by two hops": Injection(
        [
            ("tool.call", FETCH, "p1", None),
            ("memory.add", {"content": "x"}, "p1", None),
            ("memory.list", {}, "p2", None),
            ("llm.chat", {"messages": []}, "p2", "c10"),
        ],
        program="p3",
        context="c10",
    ),
}


@pytest.mark.parametrize("name", INJECTIONS)
async def test_injected_content_cannot_act(world: AttackWorld, name: str) -> None:
    """ASI01, ASI06."""
    injection = INJECTIONS[name]
    who = f"inj-{list(INJECTIONS).index(name)}"
    agent = await world.add(who, "agent")
    for operation, body, program, context in injection.steps:
        manager, _, short = operation.partition(".")
        headers = {wire.PROGRAM: program, wire.CONTEXT: context}
        if manager == "llm":
            headers[wire.DURABILITY] = "volatile"
        assert (await agent.call(manager, short, body, headers=headers))["type"] == "done", operation
    body = WIPE if injection.body is None else injection.body
    acting = {wire.PROGRAM: injection.program, wire.CONTEXT: injection.context}
    attack = CallAttack(name, "ASI01", injection.act, "access.denied", body, acting, who=who)
    await world.refused_call(attack)
    await agent.close()


async def test_a_clean_program_is_asked_about_and_not_denied(world: AttackWorld) -> None:
    await world.refused_call(CallAttack("a clean program wipes", "ASI02", "tool.call", "pending", WIPE))


FORGED = {
    "an approval in a header": {wire.APPROVAL: "0" * 24},
    "an operator's group in a header": {wire.GROUP: "operator"},
    "an empty taint in a header": {wire.TAINT: ""},
    "a reply of the kernel in a header": {wire.REPLY: "_INBOX.default.victim.0"},
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_header_does_not_spare_the_human(world: AttackWorld, name: str) -> None:
    """ASI09."""
    await world.refused_call(CallAttack(name, "ASI09", "tool.call", "pending", WIPE, FORGED[name]))


TRICKS: dict[str, object] = {
    "another field of the same name": b'{"name":"fetch","name":"wipe"}',
    "escaped letters in the tool's name": b'{"name":"\\u0077ipe"}',
    "blanks around the body": b'  {"name" : "wipe"}  ',
    "a further field": {"name": "wipe", "effects": ["read_only"]},
    "arguments that look like a tool": {"name": "wipe", "arguments": {"name": "fetch"}},
}


@pytest.mark.parametrize("name", TRICKS)
async def test_the_tool_that_access_judges_is_the_one_that_runs(world: AttackWorld, name: str) -> None:
    """ASI02: a body that is read in two ways."""
    await world.refused_call(CallAttack(name, "ASI02", "tool.call", "pending", TRICKS[name]))


async def test_a_tool_declared_irreversible_a_moment_ago_is_asked_about(world: AttackWorld) -> None:
    """ASI04: between the declaration and the news of it."""
    for number in range(5):
        await declare(world.server, "default", f"fresh-{number}", "irreversible")
        attack = CallAttack("a fresh tool", "ASI04", "tool.call", "pending", {"name": f"fresh-{number}"})
        await world.refused_call(attack)


async def pending(world: AttackWorld, who: str = "agent") -> str:
    frame = await world.refused_call(CallAttack("waits", "ASI09", "tool.call", "pending", WIPE, who=who))
    return str(frame["approval_id"])


@pytest.mark.parametrize("operation", ["access.approve", "access.deny", "access.approvals"])
@pytest.mark.parametrize("who", ["agent", "guest"])
async def test_an_agent_gives_no_consent(world: AttackWorld, operation: str, who: str) -> None:
    """ASI09."""
    body = {} if operation == "access.approvals" else {"approval_id": await pending(world)}
    await world.refused_call(CallAttack("consent", "ASI09", operation, "access.denied", body, who=who))


async def _refused_by_access(
    world: AttackWorld, who: str, operation: str, body: object, code: str, tenant: str = "default"
) -> None:
    """Refused by the handler, so the log has it as an end."""
    agent = world.operator if who == "operator" else world.agents[who]
    call_id = new_syscall_id()
    async with world.untouched():
        error = await agent.error("access", operation, body, call_id=call_id)
    assert error["code"] == code, error
    end = await world.audit.find(tenant, lambda record: record["id"] == call_id and record["kind"] == "end")
    assert end["code"] == code


@pytest.mark.parametrize("operation", ["approve", "deny"])
async def test_another_tenants_operator_gives_no_consent(world: AttackWorld, operation: str) -> None:
    """ASI09."""
    approval_id = await pending(world)
    body = {"approval_id": approval_id}
    await _refused_by_access(world, "boss", operation, body, "resource.not_found", "acme")
    await _refused_by_access(world, "boss", operation, {**body, "tenant": "default"}, "access.denied", "acme")


WRONG_IDS = {
    "a guessed id": ("0" * 24, "resource.not_found"),
    "a wildcard": ("*", "request.invalid"),
    "everything": (">", "request.invalid"),
    "another key": ("default.x", "request.invalid"),
    "a path": ("../" + "0" * 21, "request.invalid"),
    "upper case": ("A" * 24, "request.invalid"),
    "an empty id": ("", "request.invalid"),
}


@pytest.mark.parametrize("name", WRONG_IDS)
async def test_an_approval_id_cannot_be_made_up(world: AttackWorld, name: str) -> None:
    """ASI09."""
    approval_id, code = WRONG_IDS[name]
    await _refused_by_access(world, "operator", "approve", {"approval_id": approval_id}, code)


async def test_a_consent_cannot_be_given_twice_or_after_a_refusal(world: AttackWorld) -> None:
    """ASI09."""
    approval_id = await pending(world)
    await world.operator.result("access", "deny", {"approval_id": approval_id})
    for operation in ("approve", "deny"):
        await _refused_by_access(world, "operator", operation, {"approval_id": approval_id}, "resource.conflict")


async def test_a_refused_call_sent_again_stays_refused(world: AttackWorld) -> None:
    """ASI10: replay."""
    call_id = new_syscall_id()
    attack = CallAttack("asks", "ASI10", "tool.call", "pending", WIPE, call_id=call_id)
    frame = await world.refused_call(attack)
    await world.operator.result("access", "deny", {"approval_id": frame["approval_id"]})
    again = CallAttack("asks again", "ASI10", "tool.call", "access.approval_denied", WIPE, call_id=call_id)
    await world.refused_call(again)


async def test_another_call_under_a_waiting_ones_id_is_refused(world: AttackWorld) -> None:
    """ASI09: consent to one thing, used for another."""
    call_id = new_syscall_id()
    await world.refused_call(CallAttack("asks", "ASI09", "tool.call", "pending", WIPE, call_id=call_id))
    other = {"name": "wipe", "arguments": {"what": "backups too"}}
    swapped = CallAttack("swaps", "ASI09", "tool.call", "resource.conflict", other, call_id=call_id)
    await world.refused_call(swapped)


SUMMARIES: dict[str, Callable[[], str]] = {
    "a terminal's escape sequence": lambda: "\x1b[2J\x1b[1;1Happroved",
    "a line feed that begins a new row": lambda: "x\ndefault.trusted  pending",
    "a carriage return over the line": lambda: "wipe\rharmless",
    "text that runs backwards": lambda: "\u202egnp.exe",
    "a zero-width joiner": lambda: "wi\u200dpe",
    "markup of the table": lambda: "[bold red]harmless[/]",
    "a bell": lambda: "\x07" * 10,
    "very much text before the point": lambda: "x" * 100_000 + "WIPE",
}


@pytest.mark.parametrize("name", SUMMARIES)
async def test_what_a_human_is_shown_cannot_be_dressed_up(world: AttackWorld, name: str) -> None:
    """ASI09."""
    body = {"name": "wipe", "arguments": {"note": SUMMARIES[name]()}}
    frame = await world.refused_call(CallAttack(name, "ASI09", "tool.call", "pending", body))
    shown = (await world.operator.result("access", "approvals"))["approvals"]
    summary = next(each["summary"] for each in shown if each["approval_id"] == frame["approval_id"])
    assert summary.startswith('tool.call {"name":"wipe"')
    assert summary.isprintable()
    assert len(summary) < 500
    await world.operator.result("access", "deny", {"approval_id": frame["approval_id"]})


async def test_a_flood_of_wrong_calls_is_refused_one_by_one_and_logged(world: AttackWorld) -> None:
    """ASI08."""
    agent = world.agents["agent"]
    since_us = time.time_ns() // 1000
    async with world.untouched():
        frames = await asyncio.gather(*(agent.call("scheduler", "drain", {}) for _ in range(500)))
    assert {frame["error"]["code"] for frame in frames} == {"access.denied"}

    def count(records: Sequence[dict[str, object]]) -> int:
        return sum(
            record["kind"] == "decision"
            and record.get("operation") == "scheduler.drain"
            and int(str(record["at_us"])) >= since_us
            for record in records
        )

    async with asyncio.timeout(10):
        while count(await world.audit.records("default")) < 500:
            await asyncio.sleep(0.05)
    assert (await world.victim.result("access", "whoami"))["agent"] == "victim"


async def test_a_flood_of_parked_calls_runs_nothing_and_reaches_no_other_tenant(world: AttackWorld) -> None:
    """ASI08. That a tenant's list has an end is tested with access."""
    agent = world.agents["agent"]
    async with world.untouched():
        for _ in range(3):
            replies = [await agent.send("tool", "call", WIPE) for _ in range(20)]
            frames = [await agent.inbox.next(reply) for reply in replies]
            assert {frame["type"] for frame in frames} == {"pending_approval"}
    shown = (await world.operator.result("access", "approvals", {"tenant": "acme"}))["approvals"]
    assert shown == []


async def test_a_flood_of_strangers_is_logged_and_keeps_nobody_out(world: AttackWorld) -> None:
    """ASI08."""
    before = len(await world.audit.records("kernel"))
    await asyncio.gather(*(world.refused_connection(token=f"default.flood-{n}.x") for n in range(40)))
    await world.audit.find("kernel", lambda record: "flood-" in record.get("reason", ""))
    assert len(await world.audit.records("kernel")) > before
    assert (await world.victim.result("access", "whoami"))["agent"] == "victim"


async def test_an_agent_that_was_revoked_does_nothing_more_on_its_live_connection(world: AttackWorld) -> None:
    """ASI10."""
    agent = await world.add("rogue", "agent")
    await agent.result("access", "whoami")
    await world.operator.result("access", "agent.revoke", {"agent": "rogue"})
    async with world.untouched(), asyncio.timeout(10):
        while not agent.nc.is_closed:
            await asyncio.sleep(0.02)
    await world.refused_connection(token=world.tokens["rogue"])
