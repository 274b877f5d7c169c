"""`aios top`: what an operator sees of the scheduler while calls run and wait."""

import asyncio

import pytest
from support.stack import Stack

from aios import Agent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LONG = "Tell a very long story about a river, its valley and everyone who lives there."
"""Its answer lasts until `aios top` has been started."""


async def test_top_shows_workers_tenants_and_why_a_call_waits(stack: Stack, operator: Agent) -> None:
    held = operator.llm.chat(LONG, max_tokens=1000)
    async for _ in held:
        break
    waits = operator.llm.chat("Go on.", max_tokens=4, after=[held.id], priority=3)
    await waits.accepted()
    many = [operator.llm.chat("Tell a long story.", max_tokens=500) for _ in range(40)]
    for call in many:
        await call.accepted()
    shown = await asyncio.to_thread(stack.aios, "top", "--once")
    for call in (held, waits, *many):
        await call.cancel()
    assert shown.returncode == 0, shown.stderr
    assert "policy aios" in shown.stdout
    assert "1 wait for other calls" in shown.stdout
    assert "default/llm-1" in shown.stdout
    assert "default.operator" in shown.stdout
    assert "has all its slots in use" in shown.stdout


async def test_top_without_a_stack_says_so(stack: Stack) -> None:
    shown = await asyncio.to_thread(stack.aios, "top", "--data", str(stack.folder.path / "nothing"))
    assert shown.returncode != 0
    assert "no stack is running" in shown.stderr
