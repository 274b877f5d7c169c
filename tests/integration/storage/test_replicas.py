"""Two storage processes are one store; a tenant's quota holds after a restart too."""

import asyncio
from pathlib import Path

import pytest
from support.nats_server import running_nats
from support.running_service import running_process
from support.storage_road import storage_env, storage_road

from aios import QuotaExhausted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]  # each starts three processes


async def test_two_processes_lose_and_repeat_nothing(tmp_path: Path) -> None:
    with running_nats(tmp_path / "bus") as server:
        async with storage_road(server, tmp_path, AIOS_STORAGE_SEMANTIC="false") as road:
            env = storage_env(tmp_path, AIOS_STORAGE_SEMANTIC="false")
            async with running_process("aios_storage", server, "storage", env, instance="second"):
                agent = await road.agent()
                made = await asyncio.gather(*(agent.storage.write("a", f"text {number}") for number in range(20)))
                assert sorted(one.version for one in made) == list(range(1, 21))
                for number in range(10):
                    await agent.storage.write(f"f/{number}", "x")
                for _ in range(10):  # whichever process answers
                    assert (await agent.storage.read_text("a")).startswith("text")
                    assert len(await agent.storage.versions("a")) == 20
                async with asyncio.timeout(10):
                    agreeing = 0
                    while agreeing < 10:
                        listed = (await agent.storage.list("f")).files
                        agreeing = agreeing + 1 if len(listed) == 10 else 0


async def test_a_quota_is_kept_and_remembered(tmp_path: Path) -> None:
    with running_nats(tmp_path / "bus") as server:
        more = {"AIOS_STORAGE_QUOTA_BYTES": "1000", "AIOS_STORAGE_SEMANTIC": "false"}
        async with storage_road(server, tmp_path, **more) as road:
            agent, other = await road.agent(), await road.agent(tenant="elsewhere")
            await agent.storage.write("a", "x" * 900)
            with pytest.raises(QuotaExhausted):
                await agent.storage.write("b", "x" * 200)
            await other.storage.write("b", "x" * 200)
            await road.storage.stop()
            await road.start_storage()
            with pytest.raises(QuotaExhausted):
                await agent.storage.write("b", "x" * 200)
            await agent.storage.delete("a")
            await agent.storage.write("b", "x" * 200)
