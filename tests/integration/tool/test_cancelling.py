"""`syscall.cancel` on calls of tools: those that wait, those that run, and those for which it comes too late."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from support.frame_inbox import RawAgent
from support.running_service import TESTS, running_process
from support.tool_world import ToolWorld

from aios import Agent, ManagerUnavailable, SyscallCancelled, SyscallInfo, SyscallUnknown, ToolContext
from aios_proto.ids import new_syscall_id
from aios_proto.messages.tool import ToolSpec

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(120)]

_LOOK_AGAIN_S = 0.05


@pytest.fixture(scope="module")
def tool_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    ours = {"command": sys.executable, "args": ["-m", "support.mcp_server"], "env": {"PYTHONPATH": str(TESTS)}}
    path = tmp_path_factory.mktemp("mcp") / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"ours": ours}}))
    # The weaker sandbox works on every host; a run in it is a process just the same.
    return {"AIOS_TOOL_MCP_FILE": str(path), "AIOS_TOOL_SANDBOX": "rlimit", "AIOS_TOOL_PING_S": "0.1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def with_scheduler(world: ToolWorld) -> AsyncIterator[None]:
    """A scheduler too: who wants to be sure that a call is unknown must have asked it."""
    async with running_process("aios_scheduler", world.installation.server, "scheduler", wait_ready=False):
        async with await world.agent() as agent, asyncio.timeout(30):
            while True:
                try:
                    await agent.calls.list()
                except ManagerUnavailable:
                    await asyncio.sleep(_LOOK_AGAIN_S)
                else:
                    break
        yield


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(_LOOK_AGAIN_S)


async def mounted(caller: Agent) -> None:
    """Returns when the MCP server runs and its tools are listed."""
    async with asyncio.timeout(60):
        while "ours__hang" not in {tool.name for tool in await caller.tools.list()}:
            await asyncio.sleep(_LOOK_AGAIN_S)


async def state_of(agent: Agent, call_id: str) -> SyscallInfo | None:
    return next((info for info in await agent.calls.list() if info.id == call_id), None)


@pytest.mark.usefixtures("with_scheduler")
async def test_a_call_that_waits_leaves_the_queue_and_is_never_run(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()
    runs: list[str] = []
    go_on, begun = asyncio.Event(), asyncio.Event()

    @owner.tool(concurrency=1)
    async def one_by_one(name: str) -> None:
        runs.append(name)
        begun.set()
        await go_on.wait()

    async with owner, caller, asyncio.timeout(60):
        first = caller.tools.call("one_by_one", {"name": "first"})
        await begun.wait()
        second = caller.tools.call("one_by_one", {"name": "second"})
        third = caller.tools.call("one_by_one", {"name": "third"})
        while (found := await state_of(caller, second.id)) is None:
            await asyncio.sleep(_LOOK_AGAIN_S)
        assert (found.operation, found.state) == ("tool.call", "queued")
        assert found.why is not None
        assert "one_by_one" in found.why
        running = await state_of(caller, first.id)
        assert running is not None
        assert running.state == "running"
        cancelled = await second.cancel()
        assert (cancelled.state, cancelled.effect) == ("queued", None)
        with pytest.raises(SyscallCancelled, match="before it ran"):
            await second
        assert await state_of(caller, second.id) is None
        go_on.set()
        await asyncio.gather(first, third)
        assert runs == ["first", "third"]


async def test_a_function_that_runs_is_told_and_its_effect_is_said_to_be_possible(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()
    begun: asyncio.Queue[str] = asyncio.Queue()
    stopped: asyncio.Queue[str] = asyncio.Queue()

    async def wait_long(context: ToolContext) -> None:
        begun.put_nowait(context.call_id)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.put_nowait(context.call_id)

    owner.tools.declare(wait_long, name="look", effects=["read_only"])
    owner.tools.declare(wait_long, name="act")
    async with owner, caller, asyncio.timeout(60):
        for name, effect in (("look", None), ("act", "possible")):
            call = caller.tools.call(name)
            running = await begun.get()
            # Only an id is known here, as in another process of the same agent.
            cancelled = await caller.calls.cancel(call.id)
            assert (cancelled.state, cancelled.effect) == ("running", effect)
            assert await stopped.get() == running
            with pytest.raises(SyscallCancelled) as caught:
                await call
            assert ("may have had its effect" in caught.value.message) == (effect == "possible")


async def test_the_caller_gets_one_end_however_often_it_cancels(world: ToolWorld) -> None:
    owner = await world.agent()
    begun = asyncio.Event()

    @owner.tool
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with owner, asyncio.timeout(60):
        caller: RawAgent = await world.installation.agent()
        reply = await caller.send("tool", "call", {"name": "endless"}, call_id=(call_id := new_syscall_id()))
        await begun.wait()
        cancels = [await caller.send("syscall", "cancel", {"id": call_id}) for _ in range(10)]
        for cancel in cancels:
            assert (await caller.inbox.until_end(cancel))[-1]["result"]["state"] in ("running", "ended")
        assert (await caller.inbox.until_end(reply))[-1]["error"]["code"] == "syscall.cancelled"
        # The same by the name it had before, and sent again: it stays as it ended.
        assert (await caller.result("tool", "cancel", {"id": call_id}))["state"] == "ended"
        again = await caller.error("tool", "call", {"name": "endless"}, call_id=call_id)
        assert again["code"] == "syscall.cancelled"
        assert caller.inbox.waiting(reply) == 0


async def test_code_in_the_sandbox_is_killed(world: ToolWorld) -> None:
    manager = psutil.Process(world.manager.pid)
    async with await world.agent() as caller:
        await mounted(caller)  # the MCP server is a child of the manager too
        before = {child.pid for child in manager.children(recursive=True)}

        def others() -> set[int]:
            return {child.pid for child in manager.children(recursive=True)} - before

        call = caller.tools.call("python", {"code": "import time\ntime.sleep(3601)"})
        await until(lambda: bool(others()))
        assert (await call.cancel()).state == "running"
        with pytest.raises(SyscallCancelled):
            await call
        await until(lambda: not others())


async def test_an_mcp_server_is_told_that_nobody_waits_any_more(world: ToolWorld, tmp_path: Path) -> None:
    report = tmp_path / "report"
    async with await world.agent() as caller:
        await mounted(caller)
        call = caller.tools.call("ours__hang", {"path": str(report)})
        await until(lambda: report.exists() and report.read_text() == "begun")
        assert (await call.cancel()).state == "running"
        with pytest.raises(SyscallCancelled):
            await call
        await until(lambda: report.read_text() == "stopped")
        assert (await caller.tools.call("ours__add", {"a": 1, "b": 2})).content == {"result": 3}


async def test_one_that_has_ended_says_so_and_keeps_its_answer(world: ToolWorld) -> None:
    async with await world.agent() as caller:
        call = caller.tools.call("calculator", {"expression": "6*7"}, id="ended")
        answer = await call
        assert (await caller.calls.cancel("ended")).state == "ended"
        assert (await caller.tools.call("calculator", {"expression": "6*7"}, id="ended")).content == answer.content


@pytest.mark.usefixtures("with_scheduler")
async def test_another_agents_call_is_as_unknown_as_one_that_never_was(world: ToolWorld) -> None:
    owner, caller, other = await world.agent(), await world.agent(), await world.agent()
    begun, go_on = asyncio.Event(), asyncio.Event()

    @owner.tool(effects=["read_only"])
    async def mine() -> str:
        begun.set()
        await go_on.wait()
        return "mine"

    async with owner, caller, other, asyncio.timeout(60):
        call = caller.tools.call("mine")
        await begun.wait()
        for unknown in (call.id, new_syscall_id()):
            with pytest.raises(SyscallUnknown):
                await other.calls.cancel(unknown)
        assert await state_of(other, call.id) is None
        go_on.set()
        assert (await call).content == "mine"


async def test_a_call_that_needs_a_consent_can_be_cancelled_before_and_after_it(world: ToolWorld) -> None:
    owner, caller, human = await world.agent(), await world.agent(), world.installation.operator
    shots: list[str] = []
    begun = asyncio.Event()

    @owner.tool(effects=["irreversible"])
    async def fire(where: str) -> None:
        shots.append(where)
        begun.set()
        await asyncio.Event().wait()

    async with owner, caller, asyncio.timeout(60):
        before = caller.tools.call("fire", {"where": "sun"})
        await before.accepted()
        assert (await before.cancel()).state == "parked"
        with pytest.raises(SyscallCancelled, match="before it had begun"):
            await before
        after = caller.tools.call("fire", {"where": "moon"})
        await after.accepted()
        (waiting,) = (await human.result("access", "approvals"))["approvals"]
        await human.result("access", "approve", {"approval_id": waiting["approval_id"]})
        await begun.wait()
        cancelled = await after.cancel()
        assert (cancelled.state, cancelled.effect) == ("running", "possible")
        with pytest.raises(SyscallCancelled, match="may have had its effect"):
            await after
        assert shots == ["moon"]


async def test_a_cancel_that_is_sent_right_behind_its_call_finds_it(world: ToolWorld) -> None:
    owner = await world.agent()
    runs: list[str] = []

    @owner.tool
    async def slow(name: str) -> None:
        runs.append(name)
        await asyncio.Event().wait()

    async with owner:
        caller: RawAgent = await world.installation.agent()
        ids = [new_syscall_id() for _ in range(20)]
        calls, cancels = [], []
        for call_id in ids:
            body = {"name": "slow", "arguments": {"name": call_id}}
            calls.append(await caller.send("tool", "call", body, call_id=call_id))
            cancels.append(await caller.send("syscall", "cancel", {"id": call_id}))
        for call, cancel in zip(calls, cancels, strict=True):
            assert (await caller.inbox.until_end(cancel, timeout_s=30))[-1]["type"] == "done"
            assert (await caller.inbox.until_end(call, timeout_s=30))[-1]["error"]["code"] == "syscall.cancelled"


# The last of the module: it kills the tool manager.
async def test_that_a_call_was_cancelled_is_remembered_by_the_next_tool_manager(world: ToolWorld) -> None:
    caller: RawAgent = await world.installation.agent()
    keeper = RawOwner(await world.installation.agent())
    await keeper.register("keep")
    await caller.send("tool", "call", {"name": "keep"}, call_id=(call_id := new_syscall_id()))
    await keeper.invoked()
    assert (await caller.result("syscall", "cancel", {"id": call_id}))["effect"] == "possible"
    async with asyncio.timeout(20):
        while (await caller.call("tool", "call", {"name": "keep"}, call_id=call_id))["type"] != "error":
            continue
    await world.manager.kill()
    async with world.restarted(), asyncio.timeout(60):
        while (error := await caller.error("tool", "call", {"name": "keep"}, call_id=call_id))["code"] in (
            "manager.unavailable",
            "tool.unavailable",
        ):
            await asyncio.sleep(_LOOK_AGAIN_S)
        assert error["code"] == "syscall.cancelled"


class RawOwner:
    """Registers a tool and hears of its calls, and answers none."""

    def __init__(self, agent: RawAgent) -> None:
        self._agent = agent

    async def register(self, name: str) -> None:
        spec = ToolSpec(name=name, input_schema={}, effects=["idempotent"])
        body = {"tool": spec.model_dump(mode="json", exclude_none=True), "replica": "r"}
        await self._agent.result("tool", "register", body)

    async def invoked(self) -> None:
        """Returns when the tool is called."""
        while (await self._agent.inbox.next(f"{self._agent.inbox.prefix}.r.tools", timeout_s=30))["type"] != "call":
            continue
