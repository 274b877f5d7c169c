"""MCP servers: started, listed, called, and started again when they die.

A server that is lost is connected to again with growing pauses; meanwhile its tools are unavailable. Its tools are
listed again when it says that they changed, and after each connection. What a tool answers is foreign text.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import anyio
import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.session import IncomingMessage
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from mcp.types import CONNECTION_CLOSED, Implementation, Tool, ToolListChangedNotification
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import JsonValue

from aios_kit.logs import Log
from aios_proto.errors import ToolFailed
from aios_proto.messages.tool import ToolSpec
from aios_tool.adapters.mcp_config import McpConfig, McpServerConfig, read_secrets
from aios_tool.adapters.mcp_tools import content_of, specs_of
from aios_tool.core.registry import Tool as CallableTool
from aios_tool.ports import Attempt, NotStarted, OwnerLost, Progress

CONNECT_TIMEOUT_S = 60.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0
_MAX_TOOLS = 1000

Mount = Callable[[str, Sequence[ToolSpec]], Awaitable[None]]
Streams = tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]


class McpServer:
    """One server, kept connected while `keep` runs."""

    def __init__(self, name: str, config: McpServerConfig, mount: Mount, log: Log) -> None:
        self.name = name
        self._config = config
        self._mount = mount
        self._log = log
        self._client: Client | None = None
        self._names: dict[str, str] = {}
        self._structured: set[str] = set()
        self._lost = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether its tools can be called now."""
        return self._client is not None

    async def keep(self) -> None:
        """Keeps connected, for ever; cancel it to stop the server."""
        loop, pause_s = asyncio.get_running_loop(), FIRST_PAUSE_S
        while True:
            begun = loop.time()
            try:
                await self._connected_until_lost()
                self._log.warning("an MCP server was lost", server=self.name)
            except Exception as error:  # whatever a foreign server and its transport come up with
                self._log.warning("an MCP server cannot be reached", server=self.name, error=_reason(error))
            finally:
                self._client = None
            pause_s = FIRST_PAUSE_S if loop.time() - begun > _STEADY_S else min(pause_s * 2, LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def call(self, attempt: Attempt, tell: Progress) -> JsonValue:
        """Calls one of its tools; see `Runner.run`."""
        client, name = self._client, self._names.get(attempt.tool.spec.name)
        if client is None or name is None or self._lost.is_set():
            raise NotStarted

        async def report(progress: float, total: float | None, message: str | None) -> None:
            share = f"{progress:g}" if total is None else f"{progress:g}/{total:g}"
            await tell(f"{share} {message or ''}".strip() + "\n")

        calling = asyncio.ensure_future(client.call_tool(name, dict(attempt.arguments), progress_callback=report))
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait((calling, lost), return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                raise OwnerLost
            result = calling.result()
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise OwnerLost from error
            raise ToolFailed(f"{self.name}: {error}") from error
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, httpx2.TransportError) as error:
            self._lost.set()
            raise OwnerLost from error
        finally:
            for task in (calling, lost):
                task.cancel()
            await asyncio.wait((calling, lost), timeout=1)
        return content_of(result, structured=name in self._structured)

    async def _connected_until_lost(self) -> None:
        self._lost.clear()
        self._changed.clear()
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                client = await stack.enter_async_context(
                    Client(
                        _watched(self._transport(), self._lost),
                        message_handler=self._on_message,
                        client_info=Implementation(name="aios", version="1"),
                        cache=None,
                    )
                )
                await self._list(client)
            self._log.info("an MCP server is mounted", server=self.name, tools=len(self._names))
            await self._list_again_until_lost(client)

    async def _list_again_until_lost(self, client: Client) -> None:
        lost = asyncio.ensure_future(self._lost.wait())
        listening = asyncio.create_task(self._listen(client), name=f"changes of {self.name}")
        try:
            while True:
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait((lost, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if lost.done():
                    return
                self._changed.clear()
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._list(client)
        finally:
            for task in (lost, listening):
                task.cancel()
            await asyncio.wait((lost, listening), timeout=1)

    async def _listen(self, client: Client) -> None:
        """Hears of changes from servers that tell them on a stream of their own; older ones tell them unasked."""
        while client.protocol_version in MODERN_PROTOCOL_VERSIONS:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    async for _ in changes:
                        self._changed.set()
            except SubscriptionLost:
                self._changed.set()  # something may have been missed
            except (MCPError, TimeoutError) as error:
                self._log.info("an MCP server does not tell of changes", server=self.name, error=_reason(error))
                return
            await asyncio.sleep(FIRST_PAUSE_S)

    async def _list(self, client: Client) -> None:
        tools: list[Tool] = []
        cursor: str | None = None
        while len(tools) < _MAX_TOOLS:
            page = await client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        names, specs = specs_of(self.name, self._config, tools)
        self._names = names
        self._structured = {tool.name for tool in tools if tool.output_schema is not None}
        self._client = client  # before the tools are listed, so that whoever sees them can call them
        await self._mount(self.name, specs)

    async def _on_message(self, message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._changed.set()

    def _transport(self) -> AbstractAsyncContextManager[Streams]:
        config = self._config
        if config.url is not None:
            headers = config.headers | read_secrets(config.secret_headers)
            return _over_http(config.url, headers, config.timeout_s)
        return stdio_client(
            StdioServerParameters(
                command=config.command or "",
                args=config.args,
                env=config.env | read_secrets(config.secret_env),
                cwd=config.cwd,
            )
        )


class McpRunner:
    """The `Runner` of all mounted servers."""

    def __init__(self, config: McpConfig, mount: Mount, log: Log) -> None:
        self.servers = {name: McpServer(name, server, mount, log) for name, server in config.servers.items()}

    def connected(self, called: CallableTool) -> bool:
        """Whether the server of a tool is there now."""
        server = self.servers.get(called.record.owner.removeprefix("mcp:"))
        return server is not None and server.connected

    async def run(self, attempt: Attempt, progress: Progress) -> JsonValue:
        """See `Runner.run`."""
        server = self.servers.get(attempt.tool.record.owner.removeprefix("mcp:"))
        if server is None:
            raise NotStarted
        return await server.call(attempt, progress)


@asynccontextmanager
async def _over_http(url: str, headers: dict[str, str], timeout_s: float) -> AsyncIterator[Streams]:
    timeout = httpx2.Timeout(10.0, read=timeout_s + 10)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout) as http,
        streamable_http_client(url, http_client=http) as streams,
    ):
        yield streams


@asynccontextmanager
async def _watched(transport: AbstractAsyncContextManager[Streams], lost: asyncio.Event) -> AsyncIterator[Streams]:
    """The same transport; `lost` is set when nothing more can come from it."""
    async with transport as (read, write):
        passed_on, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)

        async def pass_on() -> None:
            try:
                async with passed_on:
                    async for message in read:
                        await passed_on.send(message)
            finally:
                lost.set()

        async with anyio.create_task_group() as group:
            group.start_soon(pass_on)
            try:
                yield received, write
            finally:
                group.cancel_scope.cancel()


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:300]
