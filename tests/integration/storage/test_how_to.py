"""Every Python block of the how-to on storage runs as it stands."""

import asyncio
import re
from pathlib import Path

import pytest
from support.storage_road import StorageRoad

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "storage.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("number", range(len(BLOCKS)))
async def test_a_block_of_the_how_to_runs(
    road: StorageRoad, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"agent": f"reader-{number}", "group": "agent"}
    token = (await road.operator.result("access", "agent.create", body))["token"]
    monkeypatch.setenv("AIOS_URL", road.server.url)
    monkeypatch.setenv("AIOS_TOKEN", token)
    monkeypatch.chdir(tmp_path)
    code = compile(BLOCKS[number], f"{PAGE}, block {number + 1}", "exec")
    await asyncio.to_thread(exec, code, {"__name__": "__main__"})


async def test_the_how_to_has_blocks() -> None:
    assert len(BLOCKS) >= 5
