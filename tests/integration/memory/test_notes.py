"""Notes of one agent: stored, changed, found, forgotten."""

import asyncio

from support.frame_inbox import KernelCaller
from support.memory_calls import add, contents, done, refused
from support.running_service import InProcess
from support.word_embedder import WordEmbedder


async def test_a_note_is_read_changed_and_removed(memory: InProcess, alice: KernelCaller) -> None:
    name = await add(alice, "the deploy key is in the vault", tags=["ops"], metadata={"n": [1, None]})
    note = await done(alice, "get", {"memory_id": name})
    assert (note["content"], note["tags"], note["metadata"]) == (
        "the deploy key is in the vault",
        ["ops"],
        {"n": [1, None]},
    )
    assert note["author"] == "alice"
    await done(alice, "update", {"memory_id": name, "content": "the key was rotated", "tags": []})
    note = await done(alice, "get", {"memory_id": name})
    assert (note["content"], note["tags"], note["metadata"]) == ("the key was rotated", [], {"n": [1, None]})
    assert note["updated_ms"] >= note["created_ms"]
    await done(alice, "remove", {"memory_id": name})
    assert await refused(alice, "get", {"memory_id": name}) == "resource.not_found"
    assert await refused(alice, "update", {"memory_id": name, "content": "x"}) == "resource.not_found"
    assert await contents(alice, "list") == []


async def test_the_same_call_again_changes_nothing(memory: InProcess, alice: KernelCaller) -> None:
    first = await done(alice, "add", {"content": "once"}, call_id="c1")
    assert await done(alice, "add", {"content": "once"}, call_id="c1") == first
    assert await contents(alice, "list") == ["once"]
    await done(alice, "update", {**first, "content": "twice"}, call_id="c2")
    await done(alice, "update", {**first, "content": "thrice"}, call_id="c3")
    await done(alice, "update", {**first, "content": "twice"}, call_id="c2")
    assert await contents(alice, "list") == ["thrice"]
    await done(alice, "remove", first, call_id="c4")
    await done(alice, "remove", first, call_id="c4")
    assert await refused(alice, "remove", first, call_id="c5") == "resource.not_found"


async def test_the_same_call_at_once_makes_one_note(memory: InProcess, alice: KernelCaller) -> None:
    made = await asyncio.gather(*(done(alice, "add", {"content": "once"}, call_id="same") for _ in range(8)))
    assert len({entry["memory_id"] for entry in made}) == 1
    assert (await done(alice, "usage"))["items"] == 1


async def test_search_by_meaning_by_words_and_by_both(memory: InProcess, alice: KernelCaller) -> None:
    for content in ("apple pie recipe", "banana bread recipe", "tax law of 1999"):
        await add(alice, content)
    assert (await contents(alice, "search", query="apple pie", mode="semantic"))[0] == "apple pie recipe"
    assert await contents(alice, "search", query="1999", mode="keyword") == ["tax law of 1999"]
    found = await done(alice, "search", {"query": "banana recipe"})
    assert found["memories"][0]["content"] == "banana bread recipe"
    assert set(found["modes"]) == {"semantic", "keyword"}
    assert await contents(alice, "search", query="recipe", mode="keyword", limit=1) != []


async def test_a_search_finds_what_was_written_just_before(memory: InProcess, alice: KernelCaller) -> None:
    for number in range(10):
        await add(alice, f"fact number {number}")
        found = await contents(alice, "search", query=f"fact number {number}", mode="semantic", limit=1)
        assert found == [f"fact number {number}"]


async def test_search_keeps_to_tags_and_times(memory: InProcess, alice: KernelCaller) -> None:
    await add(alice, "red apple", tags=["fruit", "red"])
    second = await add(alice, "green apple", tags=["fruit"])
    at = (await done(alice, "get", {"memory_id": second}))["created_ms"]
    for mode in ("semantic", "keyword", "hybrid"):
        assert await contents(alice, "search", query="apple", mode=mode, tags=["red", "fruit"]) == ["red apple"]
        assert await contents(alice, "search", query="apple", mode=mode, tags=["blue"]) == []
        assert "green apple" not in await contents(alice, "search", query="apple", mode=mode, before_ms=at)
        assert "green apple" in await contents(alice, "search", query="apple", mode=mode, after_ms=at)
        assert await contents(alice, "search", query="apple", mode=mode, after_ms=at + 60_000) == []


async def test_a_changed_note_is_found_by_what_it_says_now(memory: InProcess, alice: KernelCaller) -> None:
    name = await add(alice, "apple", tags=["old"])
    await contents(alice, "search", query="apple", mode="semantic")
    await done(alice, "update", {"memory_id": name, "content": "zebra", "tags": ["new"]})
    assert await contents(alice, "search", query="apple", mode="keyword") == []
    assert await contents(alice, "search", query="zebra", mode="keyword") == ["zebra"]
    assert await contents(alice, "search", query="zebra", mode="semantic", tags=["new"]) == ["zebra"]
    assert await contents(alice, "search", query="zebra", mode="semantic", tags=["old"]) == []


async def test_without_embeddings_words_still_find(
    memory: InProcess, alice: KernelCaller, embedder: WordEmbedder
) -> None:
    embedder.available = False
    await add(alice, "apple pie")
    found = await done(alice, "search", {"query": "apple"})
    assert (found["modes"], len(found["memories"])) == (["keyword"], 1)
    assert await refused(alice, "search", {"query": "apple", "mode": "semantic"}) == "engine.unavailable"
    assert (await done(alice, "usage"))["unembedded"] == 1
    embedder.available = True
    assert await contents(alice, "search", query="apple", mode="semantic") == ["apple pie"]


async def test_a_list_comes_in_pages_newest_first(memory: InProcess, alice: KernelCaller) -> None:
    made = [await add(alice, f"note {number}") for number in range(7)]
    seen, cursor = [], None
    while True:
        page = await done(alice, "list", {"limit": 3, **({"cursor": cursor} if cursor else {})})
        seen += [memory["memory_id"] for memory in page["memories"]]
        assert len(page["memories"]) <= 3
        cursor = page.get("cursor")
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 7
    assert set(seen) == set(made)
    assert await contents(alice, "list", cursor="nonsense") == []


async def test_a_note_with_a_time_to_live_goes(memory: InProcess, alice: KernelCaller) -> None:
    short = await add(alice, "short lived", ttl_s=1)
    await add(alice, "long lived", ttl_s=1000)
    note = await done(alice, "get", {"memory_id": short})
    assert note["expires_ms"] - note["created_ms"] == 1000
    async with asyncio.timeout(10):
        while "short lived" in await contents(alice, "list"):
            await asyncio.sleep(0.05)
    assert await refused(alice, "get", {"memory_id": short}) == "resource.not_found"
    assert await contents(alice, "search", query="lived") == ["long lived"]


async def test_forgetting_removes_what_is_meant_and_nothing_else(memory: InProcess, alice: KernelCaller) -> None:
    await add(alice, "a", tags=["x"])
    await add(alice, "b", tags=["x", "y"])
    await add(alice, "c")
    assert await refused(alice, "forget", {}) == "request.invalid"
    assert (await done(alice, "forget", {"tags": ["x", "y"]}))["forgotten"] == 1
    assert set(await contents(alice, "list")) == {"a", "c"}
    assert (await done(alice, "forget", {"everything": True}))["forgotten"] == 2
    assert await contents(alice, "search", query="a c") == []
    usage = await done(alice, "usage")
    assert (usage["items"], usage["bytes"]) == (0, 0)


async def test_injection_stays_within_the_budget(memory: InProcess, alice: KernelCaller) -> None:
    for number in range(20):
        await add(alice, f"the server number {number} stands in hall {number}")
    made = await done(alice, "inject", {"query": "server hall", "budget_tokens": 120})
    assert made["counted"] == "estimate"  # no model is running here
    assert 0 < made["tokens"] <= 120
    assert len(made["text"].splitlines()) == len(made["memory_ids"]) + 1
    nothing = await done(alice, "inject", {"query": "server hall", "budget_tokens": 16})
    assert (nothing["text"], nothing["memory_ids"]) == ("", [])
