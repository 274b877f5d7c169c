"""The tool manager on the bus: keeps the registry, takes calls in, answers them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TypeVar

import orjson
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from aios_kit.operation import Answering, Call
from aios_kit.service import Service
from aios_kit.sole_instance import SoleInstance
from aios_kit.streams import ensure_bucket, ensure_stream, events_stream
from aios_kit.tasks import Tasks, end
from aios_proto import subjects
from aios_proto.errors import AiosError, ResourceConflict
from aios_proto.ids import new_syscall_id
from aios_proto.kernel import PRESENCE_INTERVAL_S
from aios_proto.messages.base import Body, Empty, Result
from aios_proto.messages.syscall import CancelRequest, CancelResult, ListRequest, ListResult
from aios_proto.messages.tool import (
    RegisterRequest,
    ToolInfo,
    ToolResultRequest,
    ToolResultTaken,
    ToolSpec,
    ToolsResult,
    UnregisterRequest,
)
from aios_tool.adapters.agent_runner import AgentRunner
from aios_tool.adapters.builtin_runner import BuiltinRunner
from aios_tool.adapters.builtins.calculator import CALCULATOR
from aios_tool.adapters.builtins.clock import TIME
from aios_tool.adapters.builtins.fetch import Fetcher, fetch_tool
from aios_tool.adapters.builtins.managers import file_tools, memory_tool
from aios_tool.adapters.builtins.python import python_tool
from aios_tool.adapters.kv_claims import KvClaims, tool_calls_bucket
from aios_tool.adapters.kv_registry import KvRegistry, tools_bucket
from aios_tool.adapters.mcp_config import McpConfig, read_mcp_config
from aios_tool.adapters.mcp_runner import McpRunner
from aios_tool.adapters.sandbox.bounds import Bounds, Sandbox
from aios_tool.adapters.sandbox.bubblewrap import Bubblewrap
from aios_tool.adapters.sandbox.rlimits import Rlimits
from aios_tool.attempts import Attempts
from aios_tool.calls import Calls
from aios_tool.core.builtin import Builtin
from aios_tool.core.registry import Registry, Tool, info, without_replica
from aios_tool.kernel_tools import KernelTools
from aios_tool.settings import ToolSettings

B = TypeVar("B", bound=Body)

_QUEUE = "tool"
_WATCH_AGAIN_S = 0.2
_WRITE_TRIES = 5
# While the last calls end, the processes that run their tools must still be heard.
_WHILE_DRAINING = ["result"]


class ToolService:
    """Wires the registry, the calls and the runners to the bus."""

    def __init__(self, settings: ToolSettings) -> None:
        self.settings = settings
        self.service = service = Service("tool", settings)
        self.registry = Registry()
        self._agents = AgentRunner(self._replica_lost, settings.tool_ping_s)
        self._builtins = BuiltinRunner(_builtins(settings))
        self._mcp = McpRunner(_mcp_config(settings), self._mount, service.log)
        self._claims: KvClaims | None = None
        self._store: KvRegistry | None = None
        self._loaded = asyncio.Event()
        self._owned: set[asyncio.Task[None]] = set()
        self._answers = Tasks(4096, service.log)
        self._late: list[Subscription] = []
        self._attempts = Attempts(
            settings,
            self.registry,
            {"agent": self._agents, "builtin": self._builtins, "mcp": self._mcp},
            lambda: self.claims,
            service.log,
        )
        self._sole = SoleInstance(service, settings.tool_lease_s)
        self.calls = Calls(service, settings, self.registry, self._attempts, self._sole.ensure_active)
        service.on_start(self._start)
        service.on_reconnect(self._reconnected)
        service.on_drain(self._drain)
        service.on_stop(self._stop)
        service.on_stop(self._sole.release)
        service.serve("tool", "register", self._register)
        service.serve("tool", "unregister", self._unregister)
        service.serve("tool", "list", self._list)
        for operation in ("call", "result"):
            service.announce("tool", operation)

    @property
    def claims(self) -> KvClaims:
        """Where calls with effects are claimed; only after the start."""
        if self._claims is None:
            msg = "the service is not connected yet"
            raise RuntimeError(msg)
        return self._claims

    @property
    def store(self) -> KvRegistry:
        """Where tools are kept; only after the start."""
        if self._store is None:
            msg = "the service is not connected yet"
            raise RuntimeError(msg)
        return self._store

    async def _start(self) -> None:
        service, replicas = self.service, self.settings.jetstream_replicas
        bucket = await ensure_bucket(service.js, tools_bucket(replicas))
        calls = await ensure_bucket(service.js, tool_calls_bucket(replicas, self.settings.tool_result_memory_s))
        await ensure_stream(service.js, events_stream(replicas))
        self._store = KvRegistry(service.js, bucket, self.registry, service.log)
        self._claims = KvClaims(calls, new_syscall_id())
        self._own(self._keep_watching(), "watch tools")
        async with asyncio.timeout(self.settings.request_timeout_s):
            await self._loaded.wait()
        await self._agents.open(service.nc)
        await self._offer_builtins()
        await self._forget_unmounted()
        for name, server in self._mcp.servers.items():
            self._own(server.keep(), f"MCP server {name}")
        self._own(self._agents.watch(), "watch owners")
        self._own(self.calls.give_signs_of_life(), "signs of life")
        # Every call of a tool comes here: on the lane, as `aios_kit.lane` says. What ends calls stays open longer.
        await service.lane.subscribe(subjects.kernel("tool", "call"), self.calls.on_call, queue=_QUEUE)
        late = {
            "result": self._served("result", ToolResultRequest, self._result),
            "cancel": self._served("cancel", CancelRequest, self._cancel),
            "calls": self._served("calls", ListRequest, self._calls),
        }
        for name, handler in late.items():
            self._late.append(await service.nc.subscribe(subjects.kernel("tool", name), queue=_QUEUE, cb=handler))

    async def _offer_builtins(self) -> None:
        wanted, calls = self.settings.tool_builtins, self.service.kernel_calls
        for tool in file_tools(calls) if "files" in wanted else []:
            self._builtins.add(tool)
        if "memory" in wanted:
            self._builtins.add(memory_tool(calls))
        if "fetch" in wanted and self.settings.tool_fetch_hosts:
            fetcher = Fetcher(self.settings.tool_fetch_hosts, self.settings.tool_fetch_max_bytes)
            self._builtins.add(fetch_tool(fetcher))
        if (sandbox := await self._sandbox()) is not None:
            self._builtins.add(python_tool(sandbox, _bounds(self.settings)))
        specs = [tool.spec for tool in self._builtins.tools.values()]
        for refused in await KernelTools(self.registry, self.store).set("builtin", specs):
            self.service.log.error("a built-in tool is not offered", reason=refused)

    async def _sandbox(self) -> Sandbox | None:
        """What holds code on this host; None where nothing does, or none is wanted."""
        wanted = self.settings.tool_sandbox
        if wanted == "off" or "python" not in self.settings.tool_builtins:
            return None
        if wanted == "rlimit":
            self.service.log.warning("code runs in the weaker sandbox: it can read files of this host")
            return Rlimits()
        bubblewrap = Bubblewrap()
        if await bubblewrap.works():
            return bubblewrap
        self.service.log.warning("code is not run: bubblewrap is not installed, or may not make namespaces here")
        return None

    async def _mount(self, server: str, specs: Sequence[ToolSpec]) -> None:
        for refused in await KernelTools(self.registry, self.store).set(f"mcp:{server}", specs):
            self.service.log.warning("a tool of an MCP server is not offered", server=server, reason=refused)

    async def _forget_unmounted(self) -> None:
        """Removes the tools of servers that were mounted once and are not in the file any more."""
        owners = {tool.record.owner for tool in self.registry.all() if tool.record.source == "mcp"}
        for owner in owners - {f"mcp:{name}" for name in self._mcp.servers}:
            await KernelTools(self.registry, self.store).set(owner, [])

    def _served(
        self, name: str, request: type[B], handler: Callable[[Call[B]], Awaitable[Result]]
    ) -> Callable[[Msg], Awaitable[None]]:
        service = self.service
        answering = Answering("tool", f"tool.{name}", request, handler, service.tracing, service.metrics, service.log)

        async def on_message(message: Msg) -> None:
            await self._answers.start(answering.answer(service.lane, message), name)

        return on_message

    def _own(self, work: Coroutine[None, None, None], name: str) -> None:
        self._owned.add(task := asyncio.create_task(work, name=name))
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._owned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.service.log.error("a background task failed", task=task.get_name(), exc_info=error)

    async def _keep_watching(self) -> None:
        while True:
            try:
                await self.store.watch(self._loaded.set)
            except (NatsError, TimeoutError) as error:
                self.service.log.warning("the store of tools cannot be watched yet", error=str(error))
            await asyncio.sleep(_WATCH_AGAIN_S)

    async def _reconnected(self) -> None:
        for task in self._owned:
            if task.get_name() == "watch tools":
                task.cancel()
        self._own(self._keep_watching(), "watch tools")

    async def _drain(self) -> None:
        """Lets open calls end; their tools' results must still come in, so access is told that these are served."""
        heard = asyncio.create_task(self._stay_heard(), name="stay heard")
        try:
            if cut := await self.calls.drain(self.settings.drain_timeout_s / 2):
                self.service.log.warning("calls of tools were cut off at the end of the drain", calls=cut)
        finally:
            await end(heard)
            await self._beat([], leaving=True)

    async def _stay_heard(self) -> None:
        while True:
            await self._beat(_WHILE_DRAINING, leaving=False)
            await asyncio.sleep(PRESENCE_INTERVAL_S)

    async def _beat(self, operations: list[str], *, leaving: bool) -> None:
        body = {"manager": "tool", "instance": self.settings.instance, "operations": operations, "leaving": leaving}
        await self.service.lane.reply(subjects.presence("tool", self.settings.instance), orjson.dumps(body))

    async def _stop(self) -> None:
        for subscription in self._late:
            with suppress(NatsError):
                await subscription.unsubscribe()
        await self._answers.drain(1)
        await end(*self._owned)

    async def _register(self, call: Call[RegisterRequest]) -> ToolInfo:
        headers = call.headers

        async def write() -> Tool:
            now_ms = time.time_ns() // 1_000_000
            return await self.store.put(self.registry.registered(headers.tenant, headers.agent, call.body, now_ms))

        tool = await self._until_written(write)
        self._attempts.breakers.forget(tool.key)
        return info(tool, up=True, healthy=True)

    async def _unregister(self, call: Call[UnregisterRequest]) -> ToolInfo:
        headers = call.headers

        async def write() -> Tool:
            tool, record = self.registry.unregistered(headers.tenant, headers.agent, call.body)
            if record is None:
                await self.store.delete(tool)
                return tool
            return await self.store.put(record)

        return self._info(await self._until_written(write))

    async def _replica_lost(self, tool: Tool, replica: str) -> None:
        """A process of a tool is gone: it gets no more calls. It registers again should it come back."""

        async def write() -> Tool:
            known = self.registry.get(tool.key)
            if known is None or replica not in known.record.replicas:
                return tool
            return await self.store.put(without_replica(known.record, replica))

        self.service.log.info("a process that served a tool is gone", tool=tool.key, replica=replica)
        try:
            await self._until_written(write)
        except AiosError as error:
            self.service.log.warning("the loss of a process could not be kept", tool=tool.key, error=error.message)

    async def _until_written(self, write: Callable[[], Awaitable[Tool]]) -> Tool:
        """Writes again after another writer was faster; the watch brings what it wrote."""
        for _ in range(_WRITE_TRIES):
            try:
                return await write()
            except ResourceConflict as error:
                if not error.retryable:
                    raise
                last = error
            await asyncio.sleep(_WATCH_AGAIN_S)
        raise last

    async def _list(self, call: Call[Empty]) -> ToolsResult:
        return ToolsResult(tools=[self._info(tool) for tool in self.registry.visible(call.headers.tenant)])

    async def _result(self, call: Call[ToolResultRequest]) -> ToolResultTaken:
        return ToolResultTaken(waited=await self._agents.result(call.headers, call.body))

    async def _cancel(self, call: Call[CancelRequest]) -> CancelResult:
        return await self.calls.cancel(call.headers, call.body.id)

    async def _calls(self, call: Call[ListRequest]) -> ListResult:
        return self.calls.open_calls(call.headers, call.body.limit)

    def _info(self, tool: Tool) -> ToolInfo:
        mounted = tool.record.source != "mcp" or self._mcp.connected(tool)
        return info(tool, up=mounted, healthy=self._attempts.breakers.of(tool.key).closed)


def _bounds(settings: ToolSettings) -> Bounds:
    return Bounds(
        memory_bytes=settings.tool_sandbox_memory_bytes,
        cpu_s=settings.tool_sandbox_cpu_s,
        wall_s=2.0 * settings.tool_sandbox_cpu_s,
        output_bytes=settings.tool_sandbox_output_bytes,
    )


def _mcp_config(settings: ToolSettings) -> McpConfig:
    if settings.tool_mcp_file is None:
        return McpConfig(servers={})
    return read_mcp_config(settings.tool_mcp_file)


def _builtins(settings: ToolSettings) -> list[Builtin]:
    offered = {tool.spec.name: tool for tool in (CALCULATOR, TIME)}
    return [tool for name, tool in offered.items() if name in settings.tool_builtins]
