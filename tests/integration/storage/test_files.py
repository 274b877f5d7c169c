"""Files of one agent: what is written can be read, in every version, until it is purged."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from pydantic import JsonValue
from support.storage_road import StorageRoad

from aios import InvalidRequest, ResourceConflict, ResourceNotFound

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_what_was_written_is_read_with_its_hash_and_author(road: StorageRoad) -> None:
    agent = await road.agent()
    info = await agent.storage.write("notes/plan.md", "Grüße\n")
    assert (info.path, info.version, info.size_bytes) == ("notes/plan.md", 1, 8)
    assert info.sha256 == hashlib.sha256("Grüße\n".encode()).hexdigest()
    assert info.author == agent.name
    assert await agent.storage.read_text("notes/plan.md") == "Grüße\n"


@pytest.mark.parametrize("size", [0, 1, (512 << 10) - 1, 512 << 10, (512 << 10) + 1, 1 << 20, (5 << 19) + 7])
async def test_bytes_of_any_size_come_back_as_they_were(road: StorageRoad, size: int) -> None:
    agent = await road.agent()
    data = os.urandom(size)
    info = await agent.storage.write("blob", data)
    assert info.size_bytes == size
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert await agent.storage.read("blob") == data


async def test_a_long_text_goes_in_one_call(road: StorageRoad) -> None:
    agent = await road.agent()
    text = "line of text\n" * 60_000
    reply = await agent.syscall("storage", "write", {"path": "long.txt", "text": text})
    assert reply.result["size_bytes"] == len(text)
    assert await agent.storage.read_text("long.txt") == text


@pytest.mark.parametrize("text", ["\x01" * 400_000, "\\" * 500_000, "ü" * 300_000, "\0", ""])
async def test_a_text_of_any_characters_comes_back(road: StorageRoad, text: str) -> None:
    agent = await road.agent()
    await agent.storage.write("a", text)
    assert await agent.storage.read_text("a") == text


async def test_half_a_character_is_refused_here_and_there(road: StorageRoad) -> None:
    agent = await road.agent()
    with pytest.raises(InvalidRequest):
        await agent.storage.write("a", "\ud800")


async def test_a_local_file_is_stored_and_fetched_without_holding_it(road: StorageRoad, tmp_path: Path) -> None:
    agent = await road.agent()
    (tmp_path / "in").write_bytes(data := os.urandom((3 << 20) + 5))
    await agent.storage.write_file("big", tmp_path / "in")
    await agent.storage.read_file("big", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


async def test_every_write_is_a_version_and_any_of_them_can_be_had_again(road: StorageRoad) -> None:
    agent = await road.agent()
    for number in range(1, 4):
        assert (await agent.storage.write("a", f"text {number}")).version == number
    assert [one.version for one in await agent.storage.versions("a")] == [3, 2, 1]
    assert await agent.storage.read_text("a", version=1) == "text 1"
    assert (await agent.storage.rollback("a", 1)).version == 4
    assert await agent.storage.read_text("a") == "text 1"
    assert await agent.storage.read_text("a", version=3) == "text 3"
    with pytest.raises(ResourceNotFound):
        await agent.storage.read("a", version=9)
    with pytest.raises(ResourceNotFound):
        await agent.storage.rollback("a", 9)


async def test_a_deleted_file_is_gone_but_its_versions_are_not(road: StorageRoad) -> None:
    agent = await road.agent()
    await agent.storage.write("a", "kept")
    gone = await agent.storage.delete("a")
    assert (gone.version, gone.deleted) == (2, True)
    with pytest.raises(ResourceNotFound):
        await agent.storage.read("a")
    with pytest.raises(ResourceNotFound):
        await agent.storage.delete("a")
    assert (await agent.storage.list()).files == []
    assert await agent.storage.read_text("a", version=1) == "kept"
    await agent.storage.rollback("a", 1)
    assert await agent.storage.read_text("a") == "kept"
    assert (await agent.storage.write("a", "more")).version == 4


async def test_a_purged_file_is_gone_with_all_its_versions(road: StorageRoad) -> None:
    agent = await road.agent()
    await agent.storage.write("a", "one")
    await agent.storage.write("a", "two")
    assert (await agent.storage.delete("a", purge=True)).deleted
    for version in (None, 1, 2):
        with pytest.raises(ResourceNotFound):
            await agent.storage.read("a", version=version)
    with pytest.raises(ResourceNotFound):
        await agent.storage.versions("a")
    assert (await agent.storage.write("a", "new")).version == 1


async def test_a_move_takes_the_history_along(road: StorageRoad) -> None:
    agent = await road.agent()
    await agent.storage.write("a", "one")
    await agent.storage.write("a", "two")
    assert (await agent.storage.move("a", "b/c")).path == "b/c"
    with pytest.raises(ResourceNotFound):
        await agent.storage.read("a")
    assert await agent.storage.read_text("b/c", version=1) == "one"
    assert [one.path for one in (await agent.storage.list()).files] == ["b/c"]
    assert (await agent.storage.write("a", "other")).version == 1


async def test_a_move_onto_a_file_needs_consent_and_keeps_both_histories(road: StorageRoad) -> None:
    agent = await road.agent()
    await agent.storage.write("a", "from a")
    await agent.storage.write("b", "from b")
    with pytest.raises(ResourceConflict):
        await agent.storage.move("a", "b")
    assert await agent.storage.read_text("b") == "from b"
    assert (await agent.storage.move("a", "b", overwrite=True)).version == 2
    assert await agent.storage.read_text("b") == "from a"
    assert await agent.storage.read_text("b", version=1) == "from b"
    assert await agent.storage.read_text("a", version=1) == "from a"
    with pytest.raises(ResourceNotFound):
        await agent.storage.read("a")
    with pytest.raises(ResourceNotFound):
        await agent.storage.move("a", "c")


async def test_a_writer_who_knows_an_old_version_is_told(road: StorageRoad) -> None:
    agent = await road.agent()
    await agent.storage.write("a", "one", expect_version=0)
    with pytest.raises(ResourceConflict) as conflict:
        await agent.storage.write("a", "again", expect_version=0)
    assert conflict.value.field == "expect_version"
    assert (await agent.storage.write("a", "two", expect_version=1)).version == 2
    await agent.storage.delete("a")
    assert (await agent.storage.write("a", "three", expect_version=0)).version == 4


async def test_writers_at_once_lose_no_version(road: StorageRoad) -> None:
    agent = await road.agent()
    made = await asyncio.gather(*(agent.storage.write("a", f"text {number}") for number in range(12)))
    assert sorted(one.version for one in made) == list(range(1, 13))
    texts = [await agent.storage.read_text("a", version=number) for number in range(1, 13)]
    assert sorted(texts) == sorted(f"text {number}" for number in range(12))


@pytest.mark.parametrize("operation", ["write", "delete", "move", "rollback", "share", "purge"])
async def test_the_same_call_twice_is_done_once_and_answered_twice(road: StorageRoad, operation: str) -> None:
    agent = await road.agent()
    await agent.storage.write("a", "one")
    calls: dict[str, tuple[str, dict[str, JsonValue]]] = {
        "write": ("write", {"path": "a", "text": "two"}),
        "delete": ("delete", {"path": "a"}),
        "purge": ("delete", {"path": "a", "purge": True}),
        "move": ("move", {"source": "a", "target": "b"}),
        "rollback": ("rollback", {"path": "a", "version": 1}),
        "share": ("share", {"path": "a", "agent": "friend", "right": "read"}),
    }
    name, body = calls[operation]
    first = await agent.syscall("storage", name, body, id=f"once-{agent.name}")
    again = await agent.syscall("storage", name, body, id=f"once-{agent.name}")
    assert again.result == first.result
    if operation in ("write", "delete", "rollback"):
        assert len(await agent.storage.versions("a")) == 2


async def test_an_id_used_for_something_else_is_refused(road: StorageRoad) -> None:
    agent = await road.agent()
    await agent.storage.write("a", "one", id="used")
    with pytest.raises(ResourceConflict) as conflict:
        await agent.storage.delete("a", id="used")
    assert conflict.value.field == "id"


async def test_listing_goes_by_folder_in_pages(road: StorageRoad) -> None:
    agent = await road.agent()
    for path in ("a", "b/1", "b/2", "b/3", "b-side", "b.txt", "c/b/1"):
        await agent.storage.write(path, path)
    assert [one.path for one in (await agent.storage.list("b")).files] == ["b/1", "b/2", "b/3"]
    assert [one.path for one in (await agent.storage.list("b/")).files] == ["b/1", "b/2", "b/3"]
    seen: list[str] = []
    cursor = None
    while True:
        page = await agent.storage.list(limit=2, cursor=cursor)
        seen += [one.path for one in page.files]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == sorted(("a", "b/1", "b/2", "b/3", "b-side", "b.txt", "c/b/1"))


async def test_an_upload_with_missing_or_wrong_parts_makes_no_file(road: StorageRoad) -> None:
    agent = await road.agent()
    short: dict[str, JsonValue] = {"upload": "u1", "part": 0, "base64": "AAAA"}
    with pytest.raises(InvalidRequest) as wrong:
        await agent.syscall("storage", "upload", short)
    assert wrong.value.field == "base64"
    await agent.syscall("storage", "upload", {**short, "last": True})
    await agent.syscall("storage", "upload", {**short, "last": True})
    with pytest.raises(ResourceConflict):
        await agent.syscall("storage", "upload", {**short, "base64": "BBBB", "last": True})
    commit: dict[str, JsonValue] = {"path": "a", "upload": "u1", "parts": 2, "sha256": "0" * 64}
    with pytest.raises(ResourceNotFound) as missing:
        await agent.syscall("storage", "write", commit)
    assert missing.value.field == "upload"
    with pytest.raises(ResourceNotFound):
        await agent.storage.read("a")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"path": "a"}, "body"),
        ({"path": "a", "text": "x", "base64": "eA=="}, "body"),
        ({"path": "a", "base64": "not base64!"}, "base64"),
        ({"path": "a", "text": "x", "sha256": "0" * 64}, "sha256"),
        ({"path": "", "text": "x"}, "path"),
        ({"path": "a", "upload": "u"}, "body"),
        ({"path": "a", "text": "x", "expect_version": -1}, "expect_version"),
        ({"path": "a", "text": "x", "version": 1}, "version"),
    ],
)
async def test_a_malformed_write_names_the_field(road: StorageRoad, body: dict[str, JsonValue], field: str) -> None:
    agent = await road.agent()
    with pytest.raises(InvalidRequest) as refused:
        await agent.syscall("storage", "write", body)
    assert refused.value.field == field
