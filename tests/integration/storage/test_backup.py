"""A tenant comes back from its backup as it was, and from nothing less than a whole backup."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.nats_server import running_nats
from support.storage_road import StorageRoad, storage_road

from aios import ResourceNotFound
from aios._cli import build_group
from aios_stack.backup.archive import messages_of
from aios_stack.cli import commands

PASSPHRASE = {"AIOS_BACKUP_PASSPHRASE": "correct horse"}
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def aios(road: StorageRoad, *arguments: str, env: dict[str, str] | None = None) -> Result:
    """Runs the command line against a road."""
    assert road.server.credentials is not None
    secrets = road.server.credentials.operator_token.parent
    group = build_group([])
    for command in commands:
        group.add_command(command)
    where = ["--url", road.server.url, "--secrets", str(secrets), "--key-ring", str(road.key_ring)]
    return await asyncio.to_thread(CliRunner().invoke, group, [*arguments, *where], env=env)


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_a_tenant_comes_back_on_another_installation_with_everything(road: StorageRoad, tmp_path: Path) -> None:
    agent = await road.agent("keeper", tenant="kept-safe")
    friend = await road.agent("friend", tenant="kept-safe")
    stranger = await road.agent()
    await stranger.storage.write("not/theirs", "x")
    for number in range(5):
        await agent.storage.write("notes", f"text {number}")
    await agent.storage.write("big", data := bytes(range(256)) * 5000)
    await agent.storage.share("notes", "friend", "read")
    saved = await aios(road, "backup", "kept-safe", str(tmp_path / "b"), "--with-keys", env=PASSPHRASE)
    assert saved.exit_code == 0, saved.output
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    assert all(".kept-safe." in one.message.subject for one in messages_of(tmp_path / "b"))
    assert b"text 3" not in (tmp_path / "b").read_bytes()
    with running_nats(tmp_path / "bus") as server:
        async with storage_road(server, tmp_path) as other:
            wrong = await aios(other, "restore", str(tmp_path / "b"), env={"AIOS_BACKUP_PASSPHRASE": "wrong"})
            assert wrong.exit_code == 1
            back = await aios(other, "restore", str(tmp_path / "b"), env=PASSPHRASE)
            assert back.exit_code == 0, back.output
            again = await aios(other, "restore", str(tmp_path / "b"), env=PASSPHRASE)
            assert "resource.conflict" in again.stderr
            reader = await other.agent("reader", tenant="kept-safe")
            # The agents themselves came back too; the operator of the new place gives them new tokens.
            token = (await other.operator.result("access", "agent.rotate", {"agent": "keeper", "tenant": "kept-safe"}))[
                "token"
            ]
            keeper = await other.enter(token)
            assert [one.version for one in await keeper.storage.versions("notes")] == [5, 4, 3, 2, 1]
            assert await keeper.storage.read_text("notes", 2) == "text 1"
            assert await keeper.storage.read("big") == data
            assert [one.agent for one in await keeper.storage.shares()] == ["friend"]
            assert [one.path for one in (await keeper.storage.list()).files] == ["big", "notes"]
            assert [one.path for one in await keeper.storage.search("text", mode="keyword")] == ["notes"]
            assert (await reader.storage.list()).files == []
    assert await friend.storage.read_text("~keeper/notes") == "text 4"


async def test_a_backup_replaces_what_came_after_it(road: StorageRoad, tmp_path: Path) -> None:
    agent = await road.agent(tenant="rewound")
    await agent.storage.write("a", "before")
    assert (await aios(road, "backup", "rewound", str(tmp_path / "b"))).exit_code == 0
    await agent.storage.write("a", "after")
    await agent.storage.write("b", "after")
    back = await aios(road, "restore", str(tmp_path / "b"), "--replace")
    assert back.exit_code == 0, back.output
    assert await agent.storage.read_text("a") == "before"
    with pytest.raises(ResourceNotFound):
        await agent.storage.read("b")
    async with asyncio.timeout(10):
        while [one.path for one in (await agent.storage.list()).files] != ["a"]:
            await asyncio.sleep(0.02)
    assert (await agent.storage.write("a", "again")).version == 2


async def test_shredding_reaches_backups_without_keys(road: StorageRoad, tmp_path: Path) -> None:
    agent = await road.agent(tenant="erased")
    operator = await road.agent(group="operator")
    await agent.storage.write("a", "secret")
    assert (await aios(road, "backup", "erased", str(tmp_path / "b"))).exit_code == 0
    await operator.syscall("storage", "shred", {"tenant": "erased", "confirm": "erased"})
    await aios(road, "restore", str(tmp_path / "b"), "--replace")
    with pytest.raises(ResourceNotFound):
        await agent.storage.read("a")


@pytest.mark.parametrize("damage", ["cut", "changed", "longer", "empty", "other"])
async def test_a_damaged_backup_changes_nothing(road: StorageRoad, tmp_path: Path, damage: str) -> None:
    tenant = f"damaged-{damage}"
    agent = await road.agent(tenant=tenant)
    await agent.storage.write("a", "x" * 500)
    assert (await aios(road, "backup", tenant, str(tmp_path / "b"))).exit_code == 0
    data = (tmp_path / "b").read_bytes()
    (tmp_path / "b").write_bytes(
        {
            "cut": data[:-100],
            "changed": data[:-400] + bytes([data[-400] ^ 1]) + data[-399:],
            "longer": data + b"x",
            "empty": b"",
            "other": b"#!/bin/sh\nexit 0\n" * 50,
        }[damage]
    )
    refused = await aios(road, "restore", str(tmp_path / "b"), "--replace")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("aios: request.invalid"), refused.stderr
    assert await agent.storage.read_text("a") == "x" * 500
