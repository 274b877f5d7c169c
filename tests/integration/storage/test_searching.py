"""Files are found by their words as soon as the write was answered."""

import pytest
from support.storage_road import StorageRoad

from aios import InvalidRequest, ManagerUnavailable

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_what_was_just_written_is_found_with_the_place_where_it_stands(road: StorageRoad) -> None:
    agent = await road.agent()
    await agent.storage.write("a.txt", "nothing of note\n" * 50 + "the Zürich walrus sleeps here\n")
    await agent.storage.write("b.txt", "walruses elsewhere")
    found = await agent.storage.search("zurich WALRUS", mode="keyword")
    assert [one.path for one in found] == ["a.txt"]
    assert "Zürich walrus" in (found[0].excerpt or "")
    assert (found[0].score or 0) > 0


async def test_a_search_follows_writes_moves_deletions_and_rollbacks(road: StorageRoad) -> None:
    agent = await road.agent()

    async def paths(word: str) -> list[str]:
        return [one.path for one in await agent.storage.search(word, mode="keyword")]

    await agent.storage.write("a", "alpha")
    await agent.storage.write("a", "beta")
    assert (await paths("alpha"), await paths("beta")) == ([], ["a"])
    await agent.storage.move("a", "b")
    assert await paths("beta") == ["b"]
    await agent.storage.rollback("b", 1)
    assert (await paths("alpha"), await paths("beta")) == (["b"], [])
    await agent.storage.delete("b")
    assert await paths("alpha") == []


async def test_a_search_keeps_to_its_folder_and_its_limit(road: StorageRoad) -> None:
    agent = await road.agent()
    for number in range(6):
        await agent.storage.write(f"{'in' if number % 2 else 'out'}/{number}", "marmot")
    found = await agent.storage.search("marmot", prefix="in", limit=2, mode="keyword")
    assert len(found) == 2
    assert all(one.path.startswith("in/") for one in found)


async def test_bytes_that_are_no_text_are_found_by_their_name(road: StorageRoad) -> None:
    agent = await road.agent()
    await agent.storage.write("pictures/kingfisher.png", bytes(range(256)) * 10)
    assert [one.path for one in await agent.storage.search("kingfisher", mode="keyword")] == ["pictures/kingfisher.png"]


async def test_without_embeddings_a_hybrid_search_goes_by_words_and_a_semantic_one_says_so(road: StorageRoad) -> None:
    agent = await road.agent()
    await agent.storage.write("a", "pangolin")
    assert [one.path for one in await agent.storage.search("pangolin")] == ["a"]
    with pytest.raises(ManagerUnavailable):
        await agent.storage.search("pangolin", mode="semantic")


async def test_an_empty_query_and_a_mount_are_refused(road: StorageRoad) -> None:
    agent = await road.agent()
    with pytest.raises(InvalidRequest):
        await agent.storage.search("")
    with pytest.raises(InvalidRequest):
        await agent.storage.search("x", prefix="../x")
