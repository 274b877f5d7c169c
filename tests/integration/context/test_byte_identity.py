"""Whatever was done to a context, a snapshot brings it back byte for byte; and a fork begins with the same bytes."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.context_caller import ContextCaller
from support.nats_server import NatsServer

from aios_context.adapters.kv_context_store import KvContextStore
from aios_context.logs import Logs
from aios_proto.messages.context import ContextInfo, ContextResult, SnapshotInfo

texts = st.text(st.characters(codec="utf-8"), max_size=3000)
turns = st.builds(
    lambda role, text, name: {"role": role, "content": text, "name": name},
    st.sampled_from(("system", "user", "assistant", "tool")),
    texts,
    st.none() | st.text(st.characters(codec="utf-8"), max_size=20),
)
calls = st.builds(
    lambda arguments: {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}],
    },
    texts,
)
steps = st.lists(
    st.tuples(st.just("append"), st.lists(turns | calls, min_size=1, max_size=6), st.booleans())
    | st.tuples(st.just("pin"), st.integers(0, 50), st.booleans())
    | st.tuples(st.just("go back"), st.none(), st.none()),
    min_size=1,
    max_size=8,
)


@pytest.fixture
async def store(server: NatsServer) -> AsyncIterator[KvContextStore]:
    nc = await server.connect()
    yield await KvContextStore.open(nc.jetstream(), 1)
    await nc.close()


async def stored(store: KvContextStore, name: str) -> bytes:
    """The context's whole log as it is in the store; nothing is cached."""
    found = await store.head("acme", "alice", name)
    assert found is not None
    return b"\n".join(await Logs(store, 0).lines(found.head))


@pytest.mark.usefixtures("contexts")
@pytest.mark.timeout(120)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(done=steps)
async def test_a_random_context_is_restored_byte_for_byte(
    alice: ContextCaller, store: KvContextStore, done: list[tuple[str, Any, Any]]
) -> None:
    opened = await alice.open()
    name, count = opened.context, 0
    first = await alice.call("snapshot", SnapshotInfo, context=name)
    for kind, what, flag in done:
        if kind == "append":
            info = await alice.call("append", ContextInfo, context=name, messages=what, pinned=flag)
            count = info.turns
        elif kind == "pin" and count:
            await alice.call("pin", ContextInfo, context=name, turn=what % count, pinned=flag)
        elif kind == "go back":
            await alice.call("restore", ContextInfo, context=name, snapshot=first.snapshot)
            first = await alice.call("snapshot", SnapshotInfo, context=name)
            count = 0
    before, shown = await stored(store, name), await alice.call("get", ContextResult, context=name)
    kept = await alice.call("snapshot", SnapshotInfo, context=name)
    fork = await alice.call("fork", ContextInfo, context=name)
    await alice.append(name, "something else")
    restored = await alice.call("restore", ContextInfo, snapshot=kept.snapshot)
    back = await alice.call("restore", ContextInfo, snapshot=kept.snapshot, context=name)
    for context in (restored.context, name, fork.context):
        assert await stored(store, context) == before
        again = await alice.call("get", ContextResult, context=context)
        assert (again.messages, again.details) == (shown.messages, shown.details)
    assert restored.digest == back.digest == fork.digest == kept.digest == shown.digest
