"""Two tool managers: one works and keeps the limits, the other stands by and takes over."""

import asyncio

import pytest
from support.running_service import running_process
from support.tool_world import ToolWorld

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(120)]


async def test_a_limit_holds_with_two_managers_and_the_second_goes_on_where_the_first_dies(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()
    running = most = 0

    @owner.tool(effects=["read_only"], concurrency=1)
    async def one_by_one() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return "done"

    server = world.installation.server
    async with running_process("aios_tool", server, "tool", world.env, instance="second", wait_ready=False) as second:
        assert (await second.logged("standing by"))["active"] == "tool"
        assert await second.readiness() == (200, None)
        async with owner, caller:
            await asyncio.gather(*(caller.tools.call("one_by_one", deadline_s=60) for _ in range(30)))
            assert most == 1
            await world.manager.kill()
            await second.logged("ready")
            assert (await caller.tools.call("one_by_one", deadline_s=60)).content == "done"
            assert most == 1
