"""Keys are changed while files are in use, and destroying a tenant's keys leaves nothing of it to be read."""

import asyncio
from pathlib import Path

import pytest
from support.storage_road import StorageRoad, files_with

from aios import AccessDenied, Agent, InvalidRequest, ResourceNotFound

pytestmark = pytest.mark.asyncio(loop_scope="module")

MARKER = "PLANTED-MARKER-9d1f"


async def keys(operator: Agent, tenant: str) -> dict[str, object]:
    return dict((await operator.syscall("storage", "keys", {"tenant": tenant})).result)


async def rewrapped(operator: Agent, tenant: str) -> dict[str, object]:
    async with asyncio.timeout(30):
        while (state := await keys(operator, tenant))["rewrapping"]:
            await asyncio.sleep(0.05)
    return state


async def test_nothing_of_a_file_stands_in_clear_on_disk(road: StorageRoad, data: Path) -> None:
    agent = await road.agent()
    await agent.storage.write(f"{MARKER}-name/{MARKER}", f"text {MARKER}")
    await agent.storage.write("large", (MARKER * 40_000).encode())
    await agent.storage.share(f"{MARKER}-name", "friend", "read")
    assert await agent.storage.search(MARKER, mode="keyword")
    assert files_with(data, MARKER) == []


async def test_a_rotation_under_load_loses_nothing(road: StorageRoad) -> None:
    operator = await road.agent(tenant="rotating", group="operator")
    agent = await road.agent(tenant="rotating")
    for number in range(40):
        await agent.storage.write(f"f/{number}", f"text {number}")
    await agent.storage.write("big", bytes(range(256)) * 4000)
    stop = asyncio.Event()
    written = 0

    async def load() -> None:
        nonlocal written
        while not stop.is_set():
            written += 1
            await agent.storage.write("busy", f"text {written}")

    loading = asyncio.create_task(load())
    for version in (2, 3):
        answer = await operator.syscall("storage", "rotate")
        assert answer.result["current"] == version
        state = await rewrapped(operator, "rotating")
        assert state["versions"] == list(range(1, version + 1))
    stop.set()
    await loading
    for number in range(40):
        assert await agent.storage.read_text(f"f/{number}") == f"text {number}"
    assert await agent.storage.read("big") == bytes(range(256)) * 4000
    assert await agent.storage.read_text("busy") == f"text {written}"
    assert len(await agent.storage.versions("busy")) == written


async def test_a_shredded_tenant_leaves_nothing_and_the_others_do_not_notice(road: StorageRoad, data: Path) -> None:
    root = await road.agent(group="operator")
    doomed, kept = await road.agent(tenant="doomed"), await road.agent(tenant="kept")
    await doomed.storage.write(MARKER, MARKER * 1000)
    await kept.storage.write("a", "still here")
    with pytest.raises(InvalidRequest):
        await root.syscall("storage", "shred", {"tenant": "doomed", "confirm": "kept"})
    assert (await root.syscall("storage", "shred", {"tenant": "doomed", "confirm": "doomed"})).result["destroyed"]
    for attempt in (
        doomed.storage.read(MARKER),
        doomed.storage.write("new", "x"),
        doomed.storage.list(),
        doomed.storage.search(MARKER, mode="keyword"),
        doomed.storage.versions(MARKER),
    ):
        with pytest.raises(ResourceNotFound):
            await attempt
    assert files_with(data, MARKER) == []
    assert await kept.storage.read_text("a") == "still here"
    assert (await keys(root, "doomed"))["versions"] == []


@pytest.mark.parametrize("operation", ["keys", "rotate", "shred"])
async def test_only_operators_touch_keys_and_only_their_own_tenants(road: StorageRoad, operation: str) -> None:
    body = {"tenant": "kept", **({"confirm": "kept"} if operation == "shred" else {})}
    for caller in (await road.agent(tenant="kept"), await road.agent(tenant="elsewhere", group="operator")):
        with pytest.raises(AccessDenied):
            await caller.syscall("storage", operation, body)
