"""A mounted host folder is a jail: what the operator has not allowed is not there, and no link leads out."""

import os
from pathlib import Path

import pytest
from support.storage_road import StorageRoad

from aios import AccessDenied, Agent, AiosError, InvalidRequest, ResourceConflict, ResourceNotFound

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def traps(host: Path) -> Path:
    """A folder full of ways out."""
    (host / "secret" / "key").write_text("the secret key")
    folder = host / "open" / "traps"
    folder.mkdir()
    (folder / "link").symlink_to(host / "secret" / "key")
    (folder / "relative").symlink_to("../../secret/key")
    (folder / "dir").symlink_to(host / "secret", target_is_directory=True)
    (folder / "root").symlink_to("/", target_is_directory=True)
    os.mkfifo(folder / "pipe")
    (folder / "good").write_text("good")
    return folder


async def mounted(road: StorageRoad, path: Path, *, writable: bool = True) -> Agent:
    agent = await road.agent()
    await agent.storage.mount("m", str(path), writable=writable)
    return agent


async def test_files_of_a_mount_are_the_hosts_own(road: StorageRoad, host: Path) -> None:
    agent = await mounted(road, host / "open")
    (host / "open" / "from-host.txt").write_text("hello")
    assert await agent.storage.read_text("@m/from-host.txt") == "hello"
    info = await agent.storage.write("@m/deep/er/from-agent.txt", "hi")
    assert (info.version, info.path) == (0, "@m/deep/er/from-agent.txt")
    assert (host / "open" / "deep" / "er" / "from-agent.txt").read_text() == "hi"
    assert "@m/deep/er/from-agent.txt" in [one.path for one in (await agent.storage.list("@m")).files]
    await agent.storage.move("@m/deep/er/from-agent.txt", "@m/moved.txt")
    with pytest.raises(ResourceConflict):
        await agent.storage.move("@m/moved.txt", "@m/from-host.txt")
    await agent.storage.delete("@m/moved.txt")
    with pytest.raises(ResourceNotFound):
        await agent.storage.read("@m/moved.txt")
    assert not list((host / "open").rglob("*.aios-partial"))


async def test_a_large_file_is_read_in_pieces(road: StorageRoad, host: Path) -> None:
    agent = await mounted(road, host / "open")
    (host / "open" / "large").write_bytes(data := os.urandom((1 << 20) + 3))
    assert await agent.storage.read("@m/large") == data


@pytest.mark.parametrize("name", ["link", "relative", "dir/key", "root/etc/hostname", "pipe"])
async def test_no_link_is_followed_and_no_device_opened(road: StorageRoad, traps: Path, name: str) -> None:
    agent = await mounted(road, traps)
    for attempt in (
        agent.storage.read(f"@m/{name}"),
        agent.storage.write(f"@m/{name}", "overwritten"),
        agent.storage.delete(f"@m/{name}"),
        agent.storage.move("@m/good", f"@m/{name}", overwrite=True),
    ):
        with pytest.raises((AccessDenied, ResourceNotFound)):
            await attempt
    assert (traps.parents[1] / "secret" / "key").read_text() == "the secret key"
    assert (traps / "good").read_text() == "good"


async def test_listing_shows_only_regular_files(road: StorageRoad, traps: Path) -> None:
    agent = await mounted(road, traps)
    assert [one.path for one in (await agent.storage.list("@m")).files] == ["@m/good"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/etc",
        "{host}/secret",
        "{host}",
        "{host}/open/../secret",
        "{host}/open/traps/dir",
        "open",
        "\0",
        "{host}/no",
    ],
)
async def test_what_the_operator_has_not_allowed_is_not_mounted(
    road: StorageRoad, host: Path, traps: Path, path: str
) -> None:
    agent = await road.agent()
    with pytest.raises(AccessDenied) as refused:
        await agent.storage.mount("m", path.format(host=host))
    assert refused.value.field == "host_path"


async def test_a_read_only_folder_is_not_written(road: StorageRoad, host: Path) -> None:
    (host / "closed" / "a").write_text("a")
    agent = await road.agent()
    with pytest.raises(AccessDenied):
        await agent.storage.mount("m", str(host / "closed"), writable=True)
    await agent.storage.mount("m", str(host / "closed"))
    assert await agent.storage.read_text("@m/a") == "a"
    for attempt in (agent.storage.write("@m/b", "b"), agent.storage.delete("@m/a"), agent.storage.move("@m/a", "@m/b")):
        with pytest.raises(AccessDenied):
            await attempt
    assert [path.name for path in (host / "closed").iterdir()] == ["a"]


async def test_a_folder_is_for_the_tenants_it_was_allowed_to(road: StorageRoad, host: Path) -> None:
    stranger = await road.agent(tenant="elsewhere")
    with pytest.raises(AccessDenied):
        await stranger.storage.mount("m", str(host / "open"))
    await stranger.storage.mount("m", str(host / "closed"))


async def test_a_mount_is_its_agents_own_and_ends(road: StorageRoad, host: Path) -> None:
    agent, other = await mounted(road, host / "open"), await road.agent()
    (host / "open" / "x").write_text("x")
    with pytest.raises(ResourceNotFound):
        await other.storage.read("@m/x")
    assert await agent.storage.unmount("m") == []
    with pytest.raises(ResourceNotFound):
        await agent.storage.read("@m/x")


async def test_what_a_mount_cannot_do_is_said(road: StorageRoad, host: Path) -> None:
    agent = await mounted(road, host / "open")
    await agent.storage.write("own", "x")
    for attempt in (
        agent.storage.versions("@m/x"),
        agent.storage.rollback("@m/x", 1),
        agent.storage.move("own", "@m/x"),
        agent.storage.move("@m/x", "own"),
        agent.storage.write("@m/x", "x", expect_version=1),
        agent.storage.search("x", prefix="@m"),
    ):
        with pytest.raises(InvalidRequest):
            await attempt


HOSTILE = ["..", "../secret/key", "a/../../secret/key", "./x", "a//b", "x/", "%2e%2e/secret/key", "..\\secret", "a\0b"]


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_name_reaches_nothing_on_the_host(road: StorageRoad, traps: Path, name: str) -> None:
    agent = await mounted(road, traps)
    before = sorted(str(path) for path in traps.parents[1].rglob("*"))
    for attempt in (
        agent.storage.read(f"@m/{name}"),
        agent.storage.write(f"@m/{name}", "x"),
        agent.storage.delete(f"@m/{name}"),
    ):
        with pytest.raises(AiosError) as refused:
            await attempt
        assert refused.value.code == "request.invalid"
    assert sorted(str(path) for path in traps.parents[1].rglob("*")) == before
