"""Programs without an event loop keep files too."""

import asyncio
from pathlib import Path

import pytest
from support.storage_road import StorageRoad

from aios import SyncAgent

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_blocking_agent_keeps_files(road: StorageRoad, tmp_path: Path) -> None:
    made = await road.operator.result("access", "agent.create", {"agent": "blocking"})
    (tmp_path / "in").write_bytes(data := bytes(1_500_000))

    def work() -> None:
        with SyncAgent(token=made["token"], url=road.server.url) as agent:
            assert agent.storage.write("a", "one").version == 1
            assert agent.storage.read_text("a") == "one"
            agent.storage.write_file("big", tmp_path / "in")
            agent.storage.read_file("big", tmp_path / "out")
            assert [one.path for one in agent.storage.list().result().files] == ["a", "big"]
            assert agent.storage.move("a", "b").result().path == "b"
            assert [one.path for one in agent.storage.search("one", mode="keyword").result()] == ["b"]

    await asyncio.to_thread(work)
    assert (tmp_path / "out").read_bytes() == data
