"""The same agent for programs without an event loop: everything blocks, on a loop in a thread of its own."""

import contextlib
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, Unpack, overload

from pydantic import BaseModel, JsonValue

from aios._agent import CONNECT_TIMEOUT_S, Agent, F
from aios._llm import GenerationOptions
from aios._loop_thread import LoopThread
from aios._reply import Reply
from aios._request import CallOptions
from aios._sync_managers import SyncCall, SyncCalls, SyncContexts, SyncLLM, SyncMemories, SyncStorage, SyncTools
from aios._tool_loop import DEFAULT_MAX_STEPS, ToolChoice, ToolMode, ToolTalk
from aios._tool_schema import ToolOptions
from aios_proto.errors import BusUnavailable
from aios_proto.messages.access import WhoamiResult
from aios_proto.messages.llm import ChatMessage


class SyncAgent:
    """An agent for programs without an event loop: `with SyncAgent() as agent:`; see `Agent` for everything else.

    Its methods may be called from several threads. Calls are on their way when the method returns, so several can be
    made before the first is waited for.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        url: str | None = None,
        program: str | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._agent = Agent(token=token, url=url, program=program, connect_timeout_s=connect_timeout_s, tls=tls)
        self._loop: LoopThread | None = None

    @property
    def tenant(self) -> str:
        """Whom the agent belongs to."""
        return self._agent.tenant

    @property
    def name(self) -> str:
        """The agent's own name."""
        return self._agent.name

    @property
    def program(self) -> str:
        """The agent run its calls are scheduled as."""
        return self._agent.program

    @property
    def llm(self) -> SyncLLM:
        """Model calls."""
        return SyncLLM(self._running(), self._agent.llm)

    @property
    def contexts(self) -> SyncContexts:
        """Conversations kept by the kernel."""
        return SyncContexts(self._running(), self._agent.contexts)

    @property
    def storage(self) -> SyncStorage:
        """Files with versions."""
        return SyncStorage(self._running(), self._agent.storage)

    @property
    def memory(self) -> SyncMemories:
        """Notes that last."""
        return SyncMemories(self._running(), self._agent.memory)

    @property
    def calls(self) -> SyncCalls:
        """Calls about calls."""
        return SyncCalls(self._running(), self._agent.calls)

    @property
    def tools(self) -> SyncTools:
        """Tools, to call and to serve."""
        return SyncTools(self._running(), self._agent.tools)

    @overload
    def tool(self, function: F, /) -> F: ...
    @overload
    def tool(self, /, **options: Unpack[ToolOptions]) -> Callable[[F], F]: ...
    def tool(self, function: F | None = None, /, **options: Unpack[ToolOptions]) -> F | Callable[[F], F]:
        """Serves a function as a tool, see `Agent.tool`; it may be declared before the agent connects."""
        return self._agent.tool(**options) if function is None else self._agent.tool(function)

    def chat_with_tools(
        self,
        task: str | Sequence[ChatMessage],
        *,
        tools: Sequence[str] | None = None,
        mode: ToolMode = "schema",
        tool_choice: ToolChoice = "auto",
        output: object = None,
        system: str | None = None,
        max_steps: int = DEFAULT_MAX_STEPS,
        calls_at_once: int = 4,
        **options: Unpack[GenerationOptions],
    ) -> ToolTalk:
        """Lets a model solve a task with tools, see `Agent.chat_with_tools`."""
        return self._running().wait(
            lambda: self._agent.chat_with_tools(
                task,
                tools=tools,
                mode=mode,
                tool_choice=tool_choice,
                output=output,
                system=system,
                max_steps=max_steps,
                calls_at_once=calls_at_once,
                **options,
            )
        )

    def __repr__(self) -> str:
        return f"<Sync{repr(self._agent)[1:]}"

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Connects, see `Agent.connect`."""
        if self._loop is not None:
            return
        self._loop = LoopThread()
        try:
            self._loop.wait(self._agent.connect)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnects, see `Agent.close`."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        try:
            loop.wait(self._agent.close)
        finally:
            loop.stop()

    def whoami(self) -> WhoamiResult:
        """How the kernel sees this agent."""
        loop = self._running()
        return SyncCall(loop, loop.call(self._agent.whoami)).result()

    def syscall(
        self,
        manager: str,
        operation: str,
        body: Mapping[str, JsonValue] | BaseModel | None = None,
        **options: Unpack[CallOptions],
    ) -> SyncCall[Reply]:
        """Makes any system call, see `Agent.syscall`."""
        loop = self._running()
        return SyncCall(loop, loop.call(lambda: self._agent.syscall(manager, operation, body, **options)))

    @contextlib.contextmanager
    def run(self, name: str, *, program: str | None = None) -> Iterator[str]:
        """One run of an agent, see `Agent.run`."""
        with self._agent.run(name, program=program) as chosen:
            yield chosen

    def _running(self) -> LoopThread:
        if self._loop is None:
            raise BusUnavailable("the agent is not connected: use `with agent:` or `agent.connect()`")
        return self._loop
