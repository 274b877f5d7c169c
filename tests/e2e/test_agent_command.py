"""An operator lets agents in and shuts them out from the command line."""

import asyncio

import pytest
from support.stack import Stack

from aios import Agent, Unauthenticated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def aios(stack: Stack, *arguments: str) -> str:
    ran = await asyncio.to_thread(stack.aios, "agent", *arguments)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


async def test_an_agent_is_made_renewed_listed_and_revoked(stack: Stack) -> None:
    url = stack.state.url
    token = await aios(stack, "create", "scout", "--group", "guest")
    async with Agent(token=token, url=url) as scout:
        assert (await scout.whoami()).group == "guest"
    renewed = await aios(stack, "rotate", "scout")
    with pytest.raises(Unauthenticated):
        async with Agent(token=token, url=url):
            pass
    assert "default.scout" in await aios(stack, "list")
    await aios(stack, "revoke", "scout")
    with pytest.raises(Unauthenticated):
        async with Agent(token=renewed, url=url):
            pass


def test_a_wrong_name_is_one_clear_line(stack: Stack) -> None:
    ran = stack.aios("agent", "create", "no.dots")
    assert ran.returncode == 1
    assert "agent" in ran.stderr
    assert "Traceback" not in ran.stderr
