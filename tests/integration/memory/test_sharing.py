"""Who sees what: nobody but the owner, unless a list says so."""

from collections.abc import Callable
from typing import Any

import pytest
from support.frame_inbox import KernelCaller
from support.memory_calls import add, contents, done, refused
from support.running_service import InProcess


async def test_two_agents_work_through_a_pool_and_a_third_is_refused(
    memory: InProcess, alice: KernelCaller, bob: KernelCaller, callers: Callable[..., Any]
) -> None:
    carol = await callers("carol")
    await done(alice, "pool.create", {"pool": "team", "writers": ["bob"]})
    name = await add(alice, "alice says hello", pool="team")
    await add(bob, "bob says hello", pool="team")
    await done(bob, "update", {"pool": "team", "memory_id": name, "content": "alice and bob say hello"})
    for agent in (alice, bob):
        assert set(await contents(agent, "list", pool="team")) == {"alice and bob say hello", "bob says hello"}
        assert len(await contents(agent, "search", pool="team", query="hello", mode="semantic")) == 2
        assert await contents(agent, "list") == []  # a pool's notes are nobody's own
    attempts: dict[str, dict[str, object]] = {
        "add": {"content": "x"},
        "get": {"memory_id": name},
        "update": {"memory_id": name, "content": "x"},
        "remove": {"memory_id": name},
        "list": {},
        "search": {"query": "hello"},
        "inject": {"query": "hello", "budget_tokens": 100},
        "forget": {"everything": True},
        "usage": {},
    }
    for operation, body in attempts.items():
        assert await refused(carol, operation, {**body, "pool": "team"}) == "access.denied", operation


async def test_readers_read_and_writers_write_until_they_are_taken_off_the_list(
    memory: InProcess, alice: KernelCaller, bob: KernelCaller
) -> None:
    await done(alice, "pool.create", {"pool": "team", "readers": ["bob"]})
    await add(alice, "x", pool="team")
    assert await contents(bob, "list", pool="team") == ["x"]
    assert await refused(bob, "add", {"content": "y", "pool": "team"}) == "access.denied"
    assert await refused(bob, "pool.grant", {"pool": "team", "agent": "bob", "right": "write"}) == "access.denied"
    await done(alice, "pool.grant", {"pool": "team", "agent": "bob", "right": "write"})
    await add(bob, "y", pool="team")
    assert await refused(bob, "forget", {"pool": "team", "everything": True}) == "access.denied"
    info = await done(alice, "pool.revoke", {"pool": "team", "agent": "bob", "right": "read"})
    assert (info["readers"], info["writers"]) == ([], [])
    assert await refused(bob, "list", {"pool": "team"}) == "access.denied"
    assert (await done(bob, "pool.list"))["pools"] == []
    assert [pool["pool"] for pool in (await done(alice, "pool.list"))["pools"]] == ["team"]


async def test_a_pool_is_made_once(memory: InProcess, alice: KernelCaller, bob: KernelCaller) -> None:
    await done(alice, "pool.create", {"pool": "team"})
    await done(alice, "pool.create", {"pool": "team"})
    assert await refused(bob, "pool.create", {"pool": "team"}) == "resource.conflict"
    assert await refused(alice, "list", {"pool": "nothing"}) == "access.denied"


async def test_own_notes_are_read_by_others_by_grant_only(
    memory: InProcess, alice: KernelCaller, bob: KernelCaller
) -> None:
    name = await add(alice, "alice's secret plan")
    read = {"agent": "alice", "memory_id": name}
    assert await refused(bob, "get", read) == "access.denied"
    assert await refused(bob, "get", {"memory_id": name}) == "resource.not_found"
    assert (await done(alice, "grant", {"agent": "bob"}))["readers"] == ["bob"]
    assert (await done(bob, "get", read))["content"] == "alice's secret plan"
    assert await contents(bob, "search", agent="alice", query="secret") == ["alice's secret plan"]
    assert await contents(bob, "list", agent="alice") == ["alice's secret plan"]
    # A grant is to read: there is no way to say `agent` where something is written.
    for operation in ("add", "update", "remove"):
        assert await refused(bob, operation, {**read, "content": "x"}) == "request.invalid"
    await done(alice, "revoke", {"agent": "bob"})
    assert await refused(bob, "get", read) == "access.denied"
    assert await refused(bob, "list", {"agent": "alice", "pool": "team"}) == "request.invalid"


async def test_an_agent_of_another_tenant_with_the_same_name_has_other_notes(
    memory: InProcess, alice: KernelCaller, callers: Callable[..., Any]
) -> None:
    name = await add(alice, "of acme")
    await done(alice, "pool.create", {"pool": "team", "readers": ["alice"], "writers": ["alice"]})
    await done(alice, "grant", {"agent": "mallory"})
    for stranger in (await callers("alice", "evil"), await callers("mallory", "evil")):
        assert await refused(stranger, "get", {"memory_id": name}) == "resource.not_found"
        assert await contents(stranger, "list") == []
        assert await contents(stranger, "search", query="of acme") == []
        assert await refused(stranger, "list", {"pool": "team"}) == "access.denied"
        assert (await done(stranger, "pool.list"))["pools"] == []
    assert await refused(await callers("mallory", "evil"), "list", {"agent": "alice"}) == "access.denied"


TRAVERSALS = [
    prefix + core + suffix
    for core in ("note", "acme.agent.alice.note", "agent.alice", "*", ">", "..", "../../etc/passwd")
    for prefix in ("", "../", "..%2f", "/", ".", "alice.note.", "acme.agent.alice.note.", "~alice/", "*.", "\\..\\")
    for suffix in ("", ".access", "\x00", " ", "/..", ".>")
]
HOSTILE = [
    *(name for name in TRAVERSALS if name != "note"),
    "",
    "a" * 65,
    "ａｌｉｃｅ",
    "alice\n",
    "a b",
    "$KV.AIOS_MEMORY.acme.agent.alice.note.x",
    "\u202ealice",
    "💥",
]


@pytest.mark.timeout(60)
async def test_no_name_leads_out_of_ones_own_notes(
    memory: InProcess, alice: KernelCaller, callers: Callable[..., Any]
) -> None:
    await add(alice, "alice's only note")
    mallory = await callers("mallory", "evil")
    names = list(dict.fromkeys(HOSTILE))
    assert len(names) >= 100
    for name in names:
        for operation, body in (
            ("get", {"memory_id": name}),
            ("remove", {"memory_id": name}),
            ("list", {"pool": name}),
            ("get", {"memory_id": "x", "agent": name}),
        ):
            assert await refused(mallory, operation, body) == "request.invalid", (operation, name)
    for name in ("alice", "acme", "note", "access"):
        assert await refused(mallory, "list", {"agent": name}) == "access.denied"
        assert await refused(mallory, "get", {"memory_id": name}) == "resource.not_found"
    assert await contents(alice, "list") == ["alice's only note"]
