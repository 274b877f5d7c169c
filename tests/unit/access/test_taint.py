"""Untrusted content is followed from where a program takes it in to wherever it may turn up again."""

import time

import orjson
import pytest

from aios_access.taint import MAX_LABELS, MORE, Labels, Taint, write_mark
from aios_proto.headers import CallHeaders
from aios_proto.operations import OPERATIONS


class World:
    """Calls that pass, with their marks stored at once."""

    def __init__(self) -> None:
        self.taint = Taint(frozenset({"calculator"}), lifetime_s=3600)

    def call(
        self, name: str, body: object = None, *, program: str = "p1", agent: str = "alice", context: str | None = None
    ) -> Labels:
        manager, operation = name.split(".", 1)
        headers = CallHeaders("id", program=program, tenant="acme", agent=agent, context=context)
        labels, marks = self.taint.marks_of(headers, OPERATIONS[manager, operation], orjson.dumps(body or {}))
        for mark in marks:
            self.taint.take(mark.key, write_mark(mark.labels, time.time()))
        return labels


@pytest.fixture
def world() -> World:
    return World()


def test_a_program_is_clean_until_it_calls_a_tool(world: World) -> None:
    assert world.call("llm.chat") == ()
    assert world.call("tool.call", {"name": "fetch"}) == ("tool:fetch",)
    assert world.call("llm.chat") == ("tool:fetch",)
    assert world.taint.of_program("acme", "alice", "p1") == ("tool:fetch",)


def test_another_program_and_another_agent_stay_clean(world: World) -> None:
    world.call("tool.call", {"name": "fetch"})
    assert world.call("llm.chat", program="p2") == ()
    assert world.call("llm.chat", agent="bob") == ()


def test_a_trusted_tool_taints_nobody(world: World) -> None:
    assert world.call("tool.call", {"name": "calculator"}) == ()


def test_shared_memory_is_untrusted_and_ones_own_is_not(world: World) -> None:
    assert world.call("memory.search", {"query": "x"}) == ()
    assert world.call("memory.search", {"query": "x", "pool": "news"}) == ("pool:news",)
    assert world.call("memory.get", {"memory_id": "m", "agent": "bob"}, program="p2") == ("agent:bob",)
    assert world.call("memory.get", {"memory_id": "m", "agent": "alice"}, program="p3") == ()
    assert world.call("memory.inject", {"query": "x", "pool": "news"}, program="p4") == ("pool:news",)


def test_another_agents_file_is_untrusted(world: World) -> None:
    assert world.call("storage.read", {"path": "notes/x"}) == ()
    assert world.call("storage.read", {"path": "~alice/notes/x"}) == ()
    assert world.call("storage.read", {"path": "/~bob/notes/x"}) == ("agent:bob",)
    assert world.call("storage.search", {"query": "x", "prefix": "~bob"}, program="p2") == ("agent:bob",)
    assert world.call("storage.read", {"path": "@host/x"}, program="p3") == ("mount:host",)


def test_a_context_carries_the_mark_to_the_next_program(world: World) -> None:
    world.call("tool.call", {"name": "fetch"})
    world.call("llm.chat", context="c1")
    assert world.call("llm.chat", program="p2", context="c2") == ()
    assert world.taint.of_program("acme", "alice", "p2", "c1") == ("tool:fetch",)
    assert world.call("llm.chat", program="p2", context="c1") == ("tool:fetch",)
    assert world.call("llm.chat", program="p2", context="c2") == ("tool:fetch",)


@pytest.mark.parametrize("reading", ["context.get", "context.window", "context.snapshot"])
def test_whoever_reads_a_tainted_context_is_tainted(world: World, reading: str) -> None:
    world.call("tool.call", {"name": "fetch"})
    world.call("context.append", {"context": "c1", "messages": []})
    assert world.call(reading, {"context": "c1"}, program="p2") == ("tool:fetch",)
    assert world.call("llm.chat", program="p3") == ()


def test_a_fork_of_a_tainted_context_is_tainted(world: World) -> None:
    world.call("tool.call", {"name": "fetch"})
    world.call("context.append", {"context": "c1"})
    world.call("context.fork", {"context": "c1", "fork": "c2"}, program="p2")
    assert world.call("llm.chat", program="p3", context="c2") == ("tool:fetch",)


def test_a_snapshot_does_not_wash_the_mark_off(world: World) -> None:
    world.call("tool.call", {"name": "fetch"})
    world.call("context.append", {"context": "c1"})
    world.call("context.snapshot", {"context": "c1"})
    assert world.call("context.restore", {"snapshot": "s1"}, program="p2") == ("stored",)


@pytest.mark.parametrize("keeping", ["memory.add", "storage.write"])
@pytest.mark.parametrize("reading", ["memory.search", "storage.read", "memory.list"])
def test_a_note_does_not_wash_the_mark_off(world: World, keeping: str, reading: str) -> None:
    world.call("tool.call", {"name": "fetch"})
    world.call(keeping, {"content": "x"})
    assert world.call(reading, {"query": "x"}, program="p2") == ("stored",)


def test_another_agents_context_is_untrusted(world: World) -> None:
    world.call("tool.call", {"name": "fetch"}, agent="bob", program="q")
    assert world.call("context.get", {"context": "main", "owner": "bob"}) == ("agent:bob",)


def test_many_sources_are_kept_short(world: World) -> None:
    for number in range(20):
        labels = world.call("tool.call", {"name": f"t{number}"})
    assert len(labels) == MAX_LABELS
    assert labels[-1] == MORE


def test_a_mark_ends_with_its_lifetime() -> None:
    taint = Taint(frozenset(), lifetime_s=10)
    taint.take("p.acme.alice.p1", write_mark(("tool:x",), time.time() - 11))
    assert taint.of_program("acme", "alice", "p1") == ()


def test_a_mark_that_cannot_be_read_still_taints() -> None:
    taint = Taint(frozenset(), lifetime_s=10)
    taint.take("p.acme.alice.p1", b"\x00")
    assert taint.of_program("acme", "alice", "p1") == (MORE,)


def test_a_mark_that_is_removed_is_gone() -> None:
    taint = Taint(frozenset(), lifetime_s=10)
    taint.take("p.acme.alice.p1", write_mark(("tool:x",), time.time()))
    taint.take("p.acme.alice.p1", None)
    assert taint.of_program("acme", "alice", "p1") == ()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"name": 5}', b'{"name": "a.b"}', b'{"name": "x,tool:y"}'])
def test_a_body_that_makes_no_sense_makes_no_mark(body: bytes) -> None:
    taint = Taint(frozenset(), lifetime_s=10)
    headers = CallHeaders("id", program="p1", tenant="acme", agent="alice")
    assert taint.marks_of(headers, OPERATIONS["tool", "call"], body) == ((), [])
