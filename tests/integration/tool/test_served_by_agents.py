"""Functions of one agent, called by another as tools."""

import asyncio
from typing import Annotated

import pytest
from pydantic import Field, JsonValue
from support.otlp_sink import assert_one_connected_trace, is_connected
from support.tool_world import ToolWorld

from aios import (
    AccessDenied,
    InvalidRequest,
    ResourceConflict,
    ResourceNotFound,
    SyscallCancelled,
    ToolContext,
    ToolFailed,
    ToolInvalidOutput,
    ToolLimitExceeded,
    ToolUnavailable,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


async def test_a_function_is_a_tool_with_its_types_as_schema(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()

    @owner.tool(effects=["read_only"])
    async def add(a: int, b: Annotated[int, Field(ge=0)] = 1) -> int:
        """Adds."""
        return a + b

    async with owner, caller:
        listed = {tool.name: tool for tool in await caller.tools.list()}
        assert listed["add"].description == "Adds."
        assert listed["add"].input_schema["required"] == ["a"]
        assert listed["add"].health == "up"
        result = await caller.tools.call("add", {"a": 2, "b": 40})
        assert result.content == 42
        assert result.untrusted
        assert result.taint == ["tool:add"]
        assert (await caller.tools.call("add", {"a": 2})).content == 3
        with pytest.raises(InvalidRequest) as caught:
            await caller.tools.call("add", {"a": 2, "b": -1})
        assert caught.value.field == "arguments.b"
        with pytest.raises(ResourceNotFound):
            await caller.tools.call("subtract", {})
    async with await world.agent() as late:
        assert {tool.name: tool.health for tool in await late.tools.list()}["add"] == "down"
        with pytest.raises(ToolUnavailable):
            await late.tools.call("add", {"a": 2})


async def test_progress_comes_as_text_before_the_answer(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()

    @owner.tool
    def bake(context: ToolContext) -> str:
        for part in ("mix. ", "bake. "):
            context.progress(part)
        return "bread"

    async with owner, caller:
        call = caller.tools.call("bake")
        assert "".join([piece async for piece in call]) == "mix. bake. "
        assert (await call).content == "bread"


async def test_cancelling_a_call_reaches_the_function(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()
    begun, ended = asyncio.Event(), asyncio.Event()

    @owner.tool(timeout_s=60)
    async def wait_long() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with owner, caller:
        call = caller.tools.call("wait_long")
        async with asyncio.timeout(15):
            await begun.wait()
            await call.cancel()
            await ended.wait()
        with pytest.raises(SyscallCancelled):
            await call


async def test_a_tool_that_takes_too_long_is_stopped(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()
    ended = asyncio.Event()

    @owner.tool(timeout_s=0.2)
    async def dawdle() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with owner, caller:
        with pytest.raises(ToolLimitExceeded) as caught:
            await caller.tools.call("dawdle")
        assert not caught.value.retryable
        async with asyncio.timeout(15):
            await ended.wait()


async def test_what_a_function_raises_is_what_the_caller_gets(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()

    @owner.tool
    async def fail(how: str) -> str:
        if how == "shape":
            return 5  # type: ignore[return-value]
        raise ValueError("no such thing")

    async with owner, caller:
        with pytest.raises(ToolFailed, match="ValueError: no such thing"):
            await caller.tools.call("fail", {"how": "raise"})
        with pytest.raises(ToolInvalidOutput) as caught:
            await caller.tools.call("fail", {"how": "shape"})
        assert caught.value.field == "content"


async def test_the_same_id_runs_once_and_is_answered_twice(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()
    runs: list[str] = []

    @owner.tool(effects=["idempotent"])
    async def count(context: ToolContext) -> int:
        runs.append(context.call_id)
        assert context.fencing_token
        return len(runs)

    async with owner, caller:
        first = await asyncio.gather(*(caller.tools.call("count", id="one") for _ in range(5)))
        assert [result.content for result in first] == [1] * 5
        assert (await caller.tools.call("count", id="one")).content == 1
        assert (await caller.tools.call("count", id="two")).content == 2


async def test_a_name_belongs_to_its_agent(world: ToolWorld) -> None:
    owner, other = await world.agent(), await world.agent()

    async def mine() -> None: ...

    owner.tools.declare(mine)
    other.tools.declare(mine)
    async with owner:
        with pytest.raises(ResourceConflict):
            await other.connect()
        await other.close()
    builtin = await world.agent()
    builtin.tools.declare(mine, name="calculator")
    with pytest.raises(ResourceConflict):
        await builtin.connect()
    await builtin.close()


async def test_a_tool_is_its_tenants_own(world: ToolWorld) -> None:
    owner, stranger = await world.agent(), await world.agent(tenant="elsewhere")

    @owner.tool
    async def private() -> None: ...

    async with owner, stranger:
        assert "private" not in {tool.name for tool in await stranger.tools.list()}
        with pytest.raises(ResourceNotFound):
            await stranger.tools.call("private")


async def test_calls_that_write_the_same_wait_for_each_other_and_others_do_not(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()
    running: dict[str, int] = {}
    together: set[str] = set()
    both = asyncio.Event()

    @owner.tool(writes=["page:{page}"], concurrency=100)
    async def edit(page: str) -> None:
        running[page] = running.get(page, 0) + 1
        assert running[page] == 1
        together.add(page)
        if len(together) == 2:
            both.set()
        await both.wait()  # another page is edited meanwhile, or this never ends
        running[page] -= 1

    async with owner, caller, asyncio.timeout(30):
        await asyncio.gather(*(caller.tools.call("edit", {"page": page}) for page in "abababab"))


async def test_no_more_run_at_once_than_the_tool_takes(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()
    running = most = 0

    @owner.tool(effects=["read_only"], concurrency=3)
    async def busy() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    async with owner, caller:
        await asyncio.gather(*(caller.tools.call("busy") for _ in range(30)))
    assert most == 3


async def test_a_tool_that_says_so_is_tried_again(world: ToolWorld) -> None:
    owner, caller = await world.agent(), await world.agent()
    tries = 0

    @owner.tool(effects=["read_only"], retries=2)
    async def flaky() -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ToolFailed("not now", retryable=True)
        return "now"

    async with owner, caller:
        result = await caller.tools.call("flaky")
    assert (result.content, result.attempts) == ("now", 3)


async def test_one_trace_holds_the_call_and_the_run(world: ToolWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = world.installation.sink
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.endpoint)
    owner, caller = await world.agent(), await world.agent()

    @owner.tool(effects=["read_only"])
    async def traced() -> None: ...

    async with owner, caller:
        call = caller.tools.call("traced")
        await call
        assert call.trace_id is not None
    spans = await sink.trace(
        call.trace_id,
        lambda found: {"tool.call", "access", "execute_tool"} <= {span.name for span in found} and is_connected(found),
    )
    assert_one_connected_trace(spans, call.trace_id)


async def test_a_refused_declaration_names_the_place(world: ToolWorld) -> None:
    async with await world.agent() as agent:
        bad: dict[str, dict[str, JsonValue]] = {
            "input_schema.type": {"name": "t", "input_schema": {"type": "nonsense"}},
            "input_schema.$ref": {"name": "t", "input_schema": {"$ref": "http://example.org/schema"}},
            "input_schema.properties.a.pattern": {
                "name": "t",
                "input_schema": {"properties": {"a": {"pattern": "(?=x)"}}},
            },
            "retries": {"name": "t", "input_schema": {}, "retries": 2},
        }
        for path, spec in bad.items():
            with pytest.raises(InvalidRequest) as caught:
                await agent.syscall("tool", "register", {"tool": spec, "replica": "r"})
            assert caught.value.field is not None
            assert path.startswith("retries") or caught.value.field == f"tool.{path}"


async def test_another_agent_cannot_answer_for_the_tool(world: ToolWorld) -> None:
    owner, caller, thief = await world.agent(), await world.agent(), await world.agent()
    held: asyncio.Queue[str] = asyncio.Queue()
    go_on = asyncio.Event()

    @owner.tool
    async def guarded(context: ToolContext) -> str:
        held.put_nowait(next(iter(owner._exchange.tools._running)))
        await go_on.wait()
        return "mine"

    async with owner, caller, thief:
        call = caller.tools.call("guarded")
        name = await asyncio.wait_for(held.get(), 15)
        with pytest.raises(AccessDenied):
            await thief.syscall("tool", "result", {"invocation": name, "content": "stolen"})
        go_on.set()
        assert (await call).content == "mine"
