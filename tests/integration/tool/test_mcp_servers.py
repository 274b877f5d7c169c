"""Real MCP servers, mounted, listed, called, crashed and back."""

import asyncio
import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from support.mcp_packages import installed_mcp_servers
from support.running_service import TESTS
from support.tool_world import ToolWorld

from aios import Agent, InvalidRequest, ToolFailed, ToolInfo, ToolUnavailable

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timeout(180)]

_LOOK_AGAIN_S = 0.1


@pytest.fixture(scope="module")
def http_port() -> Iterator[int]:
    """A port that is kept for the server, which may bind to it as well: nobody else is given it meanwhile."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port: int = kept.getsockname()[1]
        yield port


@pytest.fixture(scope="module")
def tool_env(tmp_path_factory: pytest.TempPathFactory, http_port: int) -> dict[str, str]:
    bin_folder = installed_mcp_servers()
    folder = tmp_path_factory.mktemp("mcp")
    shared = folder / "shared"
    shared.mkdir()
    (shared / "hello.txt").write_text("hello from a file")
    secret = folder / "secret"
    secret.write_text("Bearer open-sesame\n")
    ours = {"command": sys.executable, "args": ["-m", "support.mcp_server"], "env": {"PYTHONPATH": str(TESTS)}}
    overridden = {"write_file": ["idempotent"]}  # its own hint says that it destroys: access would ask a human first
    servers = {
        "everything": {"command": str(bin_folder / "mcp-server-everything")},
        "files": {"command": str(bin_folder / "mcp-server-filesystem"), "args": [str(shared)], "effects": overridden},
        "clock": {"command": sys.executable, "args": ["-m", "mcp_server_time", "--local-timezone", "UTC"]},
        "ours": ours,
        "http": {"url": f"http://127.0.0.1:{http_port}/mcp", "secret_headers": {"Authorization": str(secret)}},
        "missing": {"command": str(folder / "no-such-program")},
    }
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return {"AIOS_TOOL_MCP_FILE": str(path), "SHARED": str(shared)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(world: ToolWorld) -> AsyncIterator[Agent]:
    async with await world.agent() as agent:
        yield agent


async def listed(caller: Agent, wanted: Callable[[dict[str, ToolInfo]], bool]) -> dict[str, ToolInfo]:
    """The tools by name, once they are as wanted."""
    async with asyncio.timeout(60):
        while True:
            tools = {tool.name: tool for tool in await caller.tools.list()}
            if wanted(tools):
                return tools
            await asyncio.sleep(_LOOK_AGAIN_S)


async def test_the_reference_server_is_mounted_and_called(caller: Agent) -> None:
    tools = await listed(caller, lambda found: "everything__echo" in found)
    assert tools["everything__echo"].owner == "mcp:everything"
    result = await caller.tools.call("everything__echo", {"message": "hello"})
    assert result.content == "Echo: hello"
    assert result.untrusted
    with pytest.raises(InvalidRequest) as caught:
        await caller.tools.call("everything__echo", {"message": 5})
    assert caught.value.field == "arguments.message"


async def test_progress_of_a_server_reaches_the_caller(caller: Agent) -> None:
    tools = await listed(caller, lambda found: any("long-running" in name for name in found))
    name = next(name for name in tools if "long-running" in name)
    call = caller.tools.call(name, {"duration": 0.4, "steps": 4})
    pieces = "".join([piece async for piece in call])
    assert "4/4" in pieces
    await call


async def test_files_of_the_filesystem_server_are_read_and_written_within_its_folder(
    caller: Agent, tool_env: dict[str, str]
) -> None:
    tools = await listed(caller, lambda found: "files__write_file" in found)
    shared = Path(tool_env["SHARED"])
    assert "read_only" in tools["files__read_text_file"].effects
    read = await caller.tools.call("files__read_text_file", {"path": str(shared / "hello.txt")})
    assert "hello from a file" in json.dumps(read.content)
    await caller.tools.call("files__write_file", {"path": str(shared / "new.txt"), "content": "written"})
    assert (shared / "new.txt").read_text() == "written"
    with pytest.raises(ToolFailed):
        await caller.tools.call("files__read_text_file", {"path": "/etc/passwd"})


async def test_a_python_server_from_the_registry_answers(caller: Agent) -> None:
    if importlib.util.find_spec("mcp_server_time") is None:
        pytest.skip("mcp-server-time is not installed")
    await listed(caller, lambda found: "clock__get_current_time" in found)
    result = await caller.tools.call("clock__get_current_time", {"timezone": "Europe/Berlin"})
    assert "Europe/Berlin" in json.dumps(result.content)


async def test_a_server_over_http_gets_its_secret_and_is_called(caller: Agent, http_port: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "support.mcp_server", str(http_port), "open-sesame",
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )  # fmt: skip
    try:
        await listed(caller, lambda found: "http__add" in found and found["http__add"].health == "up")
        assert (await caller.tools.call("http__add", {"a": 2, "b": 3})).content == {"result": 5}
    finally:
        process.kill()
        await process.wait()


async def test_the_tools_of_a_server_are_listed_again_when_it_says_so(caller: Agent) -> None:
    await listed(caller, lambda found: "ours__grow" in found)
    await caller.tools.call("ours__grow")
    await listed(caller, lambda found: "ours__grown" in found)
    assert "new" in json.dumps((await caller.tools.call("ours__grown")).content)


async def test_a_destructive_tool_is_marked_irreversible(caller: Agent) -> None:
    tools = await listed(caller, lambda found: "ours__destroy" in found)
    assert tools["ours__destroy"].effects == ["irreversible"]
    assert tools["ours__add"].effects == ["read_only"]


async def test_a_tool_that_fails_says_why(caller: Agent) -> None:
    await listed(caller, lambda found: "ours__refuse" in found)
    with pytest.raises(ToolFailed, match="not like this"):
        await caller.tools.call("ours__refuse")


async def test_a_server_that_crashes_fails_its_call_and_comes_back(caller: Agent) -> None:
    await listed(caller, lambda found: "ours__crash" in found and found["ours__crash"].health == "up")
    before = (await caller.tools.call("ours__pid")).content
    with pytest.raises(ToolFailed) as caught:
        await caller.tools.call("ours__crash")
    assert not caught.value.retryable
    assert await pid_after(caller) != before


async def test_a_server_that_is_killed_comes_back(caller: Agent) -> None:
    await listed(caller, lambda found: "ours__pid" in found and found["ours__pid"].health == "up")
    before = (await caller.tools.call("ours__pid")).content
    assert isinstance(before, dict)
    psutil.Process(int(str(before["result"]))).send_signal(signal.SIGKILL)
    assert await pid_after(caller) != before


async def pid_after(caller: Agent) -> object:
    """Which process answers once one does again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return (await caller.tools.call("ours__pid")).content
            except (ToolUnavailable, ToolFailed):
                await asyncio.sleep(_LOOK_AGAIN_S)


async def test_a_server_that_cannot_start_does_no_harm(world: ToolWorld, caller: Agent) -> None:
    await world.manager.logged("an MCP server cannot be reached")
    assert (await caller.tools.call("calculator", {"expression": "6 * 7"})).content == {"value": 42}
