"""No name in the corpus reaches anything, whichever operation it is given to."""

import asyncio

import pytest
from pydantic import JsonValue
from support.hostile_paths import HOSTILE_PATHS
from support.storage_road import StorageRoad

from aios import AiosError

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPERATIONS: dict[str, dict[str, JsonValue]] = {
    "write": {"path": "", "text": "x"},
    "read": {"path": ""},
    "delete": {"path": ""},
    "versions": {"path": ""},
    "move": {"source": "own", "target": ""},
    "rollback": {"path": "", "version": 1},
    "share": {"path": "", "agent": "bob", "right": "read"},
}


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_hostile_name_is_refused(road: StorageRoad, operation: str) -> None:
    agent, bystander = await road.agent(), await road.agent()
    await agent.storage.write("own", "mine")
    await bystander.storage.write("x", "theirs")
    field = "target" if operation == "move" else "path"
    # For a grant, `a/` is the folder `a`.
    names = [name for name in HOSTILE_PATHS if operation != "share" or not name.endswith("/")]

    async def refused(name: str) -> AiosError | None:
        try:
            await agent.syscall("storage", operation, {**OPERATIONS[operation], field: name}, deadline_s=60)
        except AiosError as error:
            return error
        return None

    for begin in range(0, len(names), 32):
        some = names[begin : begin + 32]
        for name, error in zip(some, await asyncio.gather(*map(refused, some)), strict=True):
            assert error is not None, name
            assert (error.code, error.field) == ("request.invalid", field), name
    assert [one.path for one in (await agent.storage.list()).files] == ["own"]
    assert [one.path for one in (await bystander.storage.list()).files] == ["x"]
    assert await agent.storage.shares() == []
    assert len(await bystander.storage.versions("x")) == 1


CROSS_TENANT = [
    "~{them}/x",
    "~elsewhere.{them}/x",
    "~elsewhere/{them}/x",
    "elsewhere/{them}/x",
    "elsewhere.h.{them}/x",
    "~{them}/../x",
    "@elsewhere/{them}/x",
    "~*/x",
]


@pytest.mark.parametrize("form", CROSS_TENANT)
async def test_no_name_reaches_into_another_tenant(road: StorageRoad, form: str) -> None:
    agent, them = await road.agent(), await road.agent(tenant="elsewhere")
    await them.storage.write("x", "theirs")
    with pytest.raises(AiosError) as refused:
        await agent.storage.read(form.format(them=them.name))
    assert refused.value.code in ("request.invalid", "access.denied", "resource.not_found")
