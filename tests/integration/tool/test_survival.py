"""Whoever dies in the middle of a call: it ends, and nothing that must happen once happens twice."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from support.running_service import TESTS
from support.tool_world import ToolWorld

from aios import Agent, ManagerUnavailable, ToolFailed, ToolUnavailable

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(120)]


class Owner:
    """A process that serves tools, see `support.tool_owner`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @classmethod
    async def start(cls, world: ToolWorld, token: str, log: Path, *, answers: bool) -> "Owner":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "support.tool_owner",
            str(log),
            "answers" if answers else "hangs",
            env={**os.environ, "PYTHONPATH": str(TESTS), "AIOS_TOKEN": token, "AIOS_URL": world.url},
            stdout=asyncio.subprocess.PIPE,
        )
        owner = cls(process, log)
        assert await owner.line() == "serving"
        return owner

    async def line(self) -> str:
        """What it says next: `serving`, or the name of a tool that began to run."""
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return (await self.process.stdout.readline()).decode().strip()

    def runs(self) -> list[str]:
        """The tools that ran so far, in this and the other processes with the same log."""
        return self.log.read_text().split() if self.log.exists() else []

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)
            if number == signal.SIGSTOP:
                return
        await self.process.wait()


async def test_a_tool_without_effects_is_run_by_another_process(world: ToolWorld, tmp_path: Path) -> None:
    token = await world.token(tenant=tmp_path.name[:60])
    first = await Owner.start(world, token, tmp_path / "log", answers=False)
    async with await world.agent(tenant=tmp_path.name[:60]) as caller:
        call = caller.tools.call("look")
        assert await first.line() == "look"
        second = await Owner.start(world, token, tmp_path / "log", answers=True)
        await first.end()
        result = await call
        assert result.content == "done"
        assert result.attempts == 2
        await second.end()


async def test_a_tool_with_effects_is_not_run_again(world: ToolWorld, tmp_path: Path) -> None:
    token = await world.token(tenant=tmp_path.name[:60])
    first = await Owner.start(world, token, tmp_path / "log", answers=False)
    async with await world.agent(tenant=tmp_path.name[:60]) as caller:
        call = caller.tools.call("act", id="once")
        assert await first.line() == "act"
        second = await Owner.start(world, token, tmp_path / "log", answers=True)
        await first.end()
        with pytest.raises(ToolFailed) as caught:
            await call
        assert not caught.value.retryable
        with pytest.raises(ToolFailed):
            await caller.tools.call("act", id="once")
        assert second.runs() == ["act"]
        await second.end()


async def test_a_lone_process_that_dies_fails_the_call_as_retryable(world: ToolWorld, tmp_path: Path) -> None:
    only = await Owner.start(world, await world.token(tenant=tmp_path.name[:60]), tmp_path / "log", answers=False)
    async with await world.agent(tenant=tmp_path.name[:60]) as caller:
        call = caller.tools.call("look")
        assert await only.line() == "look"
        await only.end()
        with pytest.raises((ToolFailed, ToolUnavailable)) as caught:
            await call
        assert caught.value.retryable


async def test_a_process_that_hangs_is_lost_as_well(world: ToolWorld, tmp_path: Path) -> None:
    only = await Owner.start(world, await world.token(tenant=tmp_path.name[:60]), tmp_path / "log", answers=False)
    async with await world.agent(tenant=tmp_path.name[:60]) as caller:
        call = caller.tools.call("act")
        assert await only.line() == "act"
        await only.end(signal.SIGSTOP)
        try:
            with pytest.raises(ToolFailed):
                await call  # the bus cuts a client off that answers no ping
        finally:
            await only.end()


async def test_calls_are_shared_by_the_processes_of_an_agent(world: ToolWorld, tmp_path: Path) -> None:
    token = await world.token(tenant=tmp_path.name[:60])
    owners = [await Owner.start(world, token, tmp_path / "log", answers=False) for _ in range(2)]
    async with await world.agent(tenant=tmp_path.name[:60]) as caller:
        calls = [caller.tools.call("look") for _ in range(2)]
        assert [await owner.line() for owner in owners] == ["look", "look"]
        for owner in owners:
            await owner.end(signal.SIGTERM)
        for call in calls:
            with pytest.raises((ToolFailed, ToolUnavailable)):
                await call


async def test_a_tool_manager_that_is_killed_runs_nothing_twice(world: ToolWorld, tmp_path: Path) -> None:
    owner = await Owner.start(world, await world.token(tenant=tmp_path.name[:60]), tmp_path / "log", answers=False)
    async with await world.agent(tenant=tmp_path.name[:60]) as caller:
        call = caller.tools.call("act", id="killed", deadline_s=15)
        assert await owner.line() == "act"
        await world.manager.kill()
        async with world.restarted():
            with pytest.raises(ToolFailed) as caught:
                await sent_again(caller, "act", "killed")
            assert not caught.value.retryable
            again = asyncio.ensure_future(sent_again(caller, "keep", "kept"))
            assert await owner.line() == "keep"
            again.cancel()
            assert owner.runs() == ["act", "keep"]
            with pytest.raises((ToolFailed, ManagerUnavailable)):
                await call
        await owner.end()


async def sent_again(caller: Agent, tool: str, call_id: str) -> object:
    """The same call, once the new manager is known to access."""
    async with asyncio.timeout(30):
        while True:
            try:
                return (await caller.tools.call(tool, id=call_id)).content
            except (ToolUnavailable, ManagerUnavailable):  # access has not heard of the new manager yet
                await asyncio.sleep(0.1)
