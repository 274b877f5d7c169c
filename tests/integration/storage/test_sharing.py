"""Files of others are reached by their grant only, and never across tenants."""

import pytest
from support.storage_road import StorageRoad

from aios import AccessDenied, InvalidRequest, ResourceNotFound

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_without_a_grant_another_agents_file_is_neither_read_nor_listed(road: StorageRoad) -> None:
    alice, bob = await road.agent(), await road.agent()
    await alice.storage.write("plan", "secret plan")
    theirs = f"~{alice.name}/plan"
    with pytest.raises(AccessDenied):
        await bob.storage.read(theirs)
    with pytest.raises(AccessDenied):
        await bob.storage.read(f"~{alice.name}/nothing-there")
    with pytest.raises(AccessDenied):
        await bob.storage.write(theirs, "mine now")
    with pytest.raises(AccessDenied):
        await bob.storage.versions(theirs)
    assert (await bob.storage.list(f"~{alice.name}")).files == []
    assert await bob.storage.search("secret", prefix=f"~{alice.name}", mode="keyword") == []


async def test_a_grant_to_read_lets_read_list_and_search_and_nothing_more(road: StorageRoad) -> None:
    alice, bob = await road.agent(), await road.agent()
    await alice.storage.write("shared/plan", "the walrus plan")
    await alice.storage.write("shared-not/plan", "the other walrus")
    assert [one.right for one in await alice.storage.share("shared", bob.name, "read")] == ["read"]
    theirs = f"~{alice.name}/shared/plan"
    assert await bob.storage.read_text(theirs) == "the walrus plan"
    assert [one.path for one in (await bob.storage.list(f"~{alice.name}")).files] == [theirs]
    found = await bob.storage.search("walrus", prefix=f"~{alice.name}", mode="keyword")
    assert [one.path for one in found] == [theirs]
    for refused in (
        bob.storage.write(theirs, "x"),
        bob.storage.delete(theirs),
        bob.storage.rollback(theirs, 1),
        bob.storage.move(theirs, "mine"),
        bob.storage.share(theirs, "carol", "read"),
        bob.storage.read(f"~{alice.name}/shared-not/plan"),
    ):
        with pytest.raises(AccessDenied):
            await refused


async def test_a_grant_to_write_makes_versions_under_the_writers_name(road: StorageRoad) -> None:
    alice, bob = await road.agent(), await road.agent()
    await alice.storage.write("doc", "by alice")
    await alice.storage.share("doc", bob.name, "write")
    await bob.storage.write(f"~{alice.name}/doc", "by bob")
    assert [one.author for one in await alice.storage.versions("doc")] == [bob.name, alice.name]
    with pytest.raises(AccessDenied):
        await bob.storage.delete(f"~{alice.name}/doc", purge=True)


async def test_a_grant_taken_back_ends_at_once(road: StorageRoad) -> None:
    alice, bob = await road.agent(), await road.agent()
    await alice.storage.write("doc", "text")
    await alice.storage.share("doc", bob.name, "write")
    assert await bob.storage.read_text(f"~{alice.name}/doc") == "text"
    assert await alice.storage.share("doc", bob.name, "none") == []
    with pytest.raises(AccessDenied):
        await bob.storage.read(f"~{alice.name}/doc")
    assert await alice.storage.shares() == []


async def test_a_moved_files_own_grant_goes_with_it_and_a_folders_does_not(road: StorageRoad) -> None:
    alice, bob = await road.agent(), await road.agent()
    await alice.storage.write("doc", "text")
    await alice.storage.write("open/other", "text")
    await alice.storage.share("doc", bob.name, "read")
    await alice.storage.share("open", bob.name, "read")
    await alice.storage.move("doc", "new")
    await alice.storage.move("open/other", "closed")
    await alice.storage.write("doc", "something private")
    assert await bob.storage.read_text(f"~{alice.name}/new") == "text"
    for hidden in ("doc", "closed"):
        with pytest.raises(AccessDenied):
            await bob.storage.read(f"~{alice.name}/{hidden}")


async def test_agents_of_the_same_name_in_two_tenants_share_nothing(road: StorageRoad) -> None:
    here, there = await road.agent("twin"), await road.agent("twin", tenant="elsewhere")
    await here.storage.write("doc", "ours")
    await here.storage.share("doc", "guest", "read")
    guest = await road.agent("guest", tenant="elsewhere")
    with pytest.raises(ResourceNotFound):
        await there.storage.read("doc")
    with pytest.raises(AccessDenied):
        await guest.storage.read("~twin/doc")
    assert (await there.storage.list()).files == []


async def test_a_grant_to_oneself_or_on_a_root_is_refused(road: StorageRoad) -> None:
    agent = await road.agent()
    for path, to in (("doc", agent.name), ("", "bob"), ("/", "bob"), ("@m/x", "bob")):
        with pytest.raises(InvalidRequest):
            await agent.storage.share(path, to, "read")
