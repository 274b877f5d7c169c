"""Quotas, the hot tier, and bad input."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from support.frame_inbox import KernelCaller
from support.memory_calls import add, contents, done, refused
from support.running_service import InProcess

StartMemory = Callable[..., AbstractAsyncContextManager[InProcess]]


async def test_the_quota_of_items_is_kept_and_freed_by_removing(
    start_memory: StartMemory, embedding: InProcess, alice: KernelCaller
) -> None:
    async with start_memory(memory_max_items=2):
        first = await add(alice, "one")
        await add(alice, "two")
        assert await refused(alice, "add", {"content": "three"}) == "quota.exhausted"
        await done(alice, "update", {"memory_id": first, "content": "uno"})
        await done(alice, "remove", {"memory_id": first})
        await add(alice, "three")
        assert set(await contents(alice, "list")) == {"two", "three"}


async def test_the_quota_of_bytes_counts_what_grows(
    start_memory: StartMemory, embedding: InProcess, alice: KernelCaller
) -> None:
    async with start_memory(memory_max_bytes=2048):
        name = await add(alice, "x" * 1000)
        assert await refused(alice, "add", {"content": "y" * 2000}) == "quota.exhausted"
        assert await refused(alice, "update", {"memory_id": name, "content": "z" * 3000}) == "quota.exhausted"
        await done(alice, "update", {"memory_id": name, "content": "small"})
        await add(alice, "y" * 1000)


async def test_what_does_not_fit_the_hot_tier_returns_unnoticed(
    start_memory: StartMemory, embedding: InProcess, alice: KernelCaller
) -> None:
    async with start_memory(memory_hot_bytes=2000):
        names = {f"note {number} " + "x" * 300: None for number in range(20)}
        made = {content: await add(alice, content) for content in names}
        for content, name in made.items():
            assert (await done(alice, "get", {"memory_id": name}))["content"] == content
        assert set(await contents(alice, "list")) == set(made)
        assert len(await contents(alice, "search", query="note", mode="keyword", limit=20)) == 20


@pytest.mark.parametrize(
    ("operation", "body", "field"),
    [
        ("add", {}, "content"),
        ("add", {"content": ""}, "content"),
        ("add", {"content": 5}, "content"),
        ("add", {"content": "x", "tags": [""]}, "tags.0"),
        ("add", {"content": "x", "tags": ["t"] * 65}, "tags"),
        ("add", {"content": "x", "ttl_s": 0}, "ttl_s"),
        ("add", {"content": "x", "ttl_s": "soon"}, "ttl_s"),
        ("add", {"content": "x", "contents": "y"}, "contents"),
        ("search", {"query": ""}, "query"),
        ("search", {"query": "x", "mode": "psychic"}, "mode"),
        ("search", {"query": "x", "limit": 1001}, "limit"),
        ("inject", {"query": "x", "budget_tokens": 1}, "budget_tokens"),
        ("pool.create", {"pool": "a.b"}, "pool"),
        ("pool.grant", {"pool": "a", "agent": "b", "right": "own"}, "right"),
        ("grant", {"agent": "alice"}, "agent"),
    ],
)
async def test_bad_bodies_name_the_field(
    memory: InProcess, alice: KernelCaller, operation: str, body: object, field: str
) -> None:
    frame = await alice.call("memory", operation, body)
    assert frame["error"]["code"] == "request.invalid"
    assert frame["error"]["field"] == field


async def test_any_text_is_kept_as_it_is(memory: InProcess, alice: KernelCaller) -> None:
    for content in ("🙂 emoji", "中文笔记", "null \u0000 byte", " ", "a\r\n\tb", "x" * 100_000, "e\u0301"):
        name = await add(alice, content)
        assert (await done(alice, "get", {"memory_id": name}))["content"] == content
    assert "中文笔记" in await contents(alice, "search", query="笔记", mode="keyword")
