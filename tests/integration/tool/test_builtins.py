"""The built-in tools, called through the whole road."""

import shutil
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from nats.aio.msg import Msg
from support.kernel_peer import KernelPeer, kernel_peer
from support.tool_world import ToolWorld

from aios import (
    AccessDenied,
    Agent,
    InvalidRequest,
    ManagerUnavailable,
    ResourceNotFound,
    ToolFailed,
    ToolForbidden,
    ToolLimitExceeded,
    ToolUnavailable,
)
from aios_proto import headers as wire

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def tool_env() -> dict[str, str]:
    return {"AIOS_TOOL_SANDBOX_CPU_S": "3", "AIOS_TOOL_FETCH_HOSTS": '["localhost"]'}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(world: ToolWorld) -> AsyncIterator[Agent]:
    async with await world.agent("ada") as agent:
        yield agent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def storage(world: ToolWorld) -> AsyncIterator[KernelPeer]:
    """A storage manager that has one file a caller, and remembers whose it was asked for."""
    async with kernel_peer(world.installation.server, "storage", "storage") as peer:
        peer.answers = False

        async def answer(message: Msg) -> None:
            headers, body = message.headers or {}, orjson.loads(message.data)
            info: dict[str, Any] = {"path": body.get("path", ""), "version": 1, "size_bytes": 5}
            info |= {"sha256": "", "modified_ms": 0}
            result = {"read": {**info, "text": f"of {headers[wire.AGENT]}"}, "write": info, "list": {"files": [info]}}
            frame = {"type": "done", "id": headers[wire.ID], "result": result[message.subject.rpartition(".")[2]]}
            await peer.nc.publish(headers[wire.REPLY], orjson.dumps(frame))

        await peer.nc.subscribe("aios.k.storage.*", cb=answer)
        await peer.beat()
        yield peer


async def test_arithmetic_is_trusted_and_faults_are_named(caller: Agent) -> None:
    result = await caller.tools.call("calculator", {"expression": "(1 + 2) * 3"})
    assert result.content == {"value": 9}
    assert not result.untrusted
    assert not result.taint
    with pytest.raises(InvalidRequest) as caught:
        await caller.tools.call("calculator", {"expression": "__import__('os')"})
    assert caught.value.field == "arguments.expression"


async def test_the_time_is_told_in_a_zone(caller: Agent) -> None:
    assert "weekday" in str((await caller.tools.call("time", {"zone": "UTC"})).content)
    with pytest.raises(InvalidRequest):
        await caller.tools.call("time", {"zone": "../../etc/passwd"})


async def test_code_runs_in_the_sandbox_and_the_manager_lives_on(caller: Agent) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    if "python" not in {tool.name for tool in await caller.tools.list()}:
        pytest.skip("bubblewrap may not make namespaces here")
    result = await caller.tools.call("python", {"code": "print(sum(range(10)))"})
    assert result.content == {"stdout": "45\n", "stderr": ""}
    assert result.taint == ["tool:python"]
    with pytest.raises(ToolLimitExceeded):
        await caller.tools.call("python", {"code": "while True: print('x' * 10000)"})
    with pytest.raises(ToolFailed, match="ZeroDivisionError"):
        await caller.tools.call("python", {"code": "1/0"})
    assert (await caller.tools.call("calculator", {"expression": "1"})).content == {"value": 1}


async def test_files_are_those_of_the_caller(caller: Agent, storage: KernelPeer) -> None:
    read = await caller.tools.call("file_read", {"path": "note.txt"})
    assert read.content == {"path": "note.txt", "version": 1, "text": "of ada"}
    await caller.tools.call("file_write", {"path": "note.txt", "text": "x"})
    assert (await caller.tools.call("file_list")).content == {"files": [{"path": "", "size_bytes": 5}]}
    identities = {(m.headers or {})[wire.AGENT] for m in storage.received}
    assert identities == {"ada"}
    with pytest.raises(InvalidRequest) as caught:
        await caller.tools.call("file_read", {"path": ""})
    assert caught.value.field == "arguments.path"


async def test_a_tool_reaches_nothing_that_its_caller_may_not(
    world: ToolWorld, caller: Agent, storage: KernelPeer
) -> None:
    policy = """
        @id("no-secrets")
        forbid(principal, action in [Action::"storage"], resource is File) when { resource.name like "secret/*" };
    """
    document = {"name": "no-secrets", "tenant": caller.tenant}
    await world.installation.operator.result("access", "policy.put", {**document, "text": policy})
    try:
        before = len(storage.received)
        for path in ("secret/key", "notes/../secret/key"):
            with pytest.raises(AccessDenied, match=r"storage\.read"):
                await caller.tools.call("file_read", {"path": path})
        assert len(storage.received) == before
        assert (await caller.tools.call("file_read", {"path": "note.txt"})).content
    finally:
        await world.installation.operator.result("access", "policy.put", {**document, "text": ""})


async def test_a_tool_whose_manager_is_away_says_so(caller: Agent) -> None:
    with pytest.raises((ToolFailed, ToolUnavailable, ManagerUnavailable)):
        await caller.tools.call("memory_search", {"query": "anything"})


async def test_fetch_reaches_no_address_of_this_machine(caller: Agent) -> None:
    for url in ("http://localhost/", "http://127.0.0.1/", "http://example.org/"):
        with pytest.raises(ToolForbidden):
            await caller.tools.call("fetch", {"url": url})


async def test_the_kernels_tools_cannot_be_taken_back(caller: Agent) -> None:
    with pytest.raises(AccessDenied):
        await caller.syscall("tool", "unregister", {"name": "calculator"})
    with pytest.raises(ResourceNotFound):
        await caller.syscall("tool", "unregister", {"name": "no-such-tool"})
