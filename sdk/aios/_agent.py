"""An agent: an identity, its connection, and what it can ask of the kernel."""

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack, overload

from pydantic import BaseModel, JsonValue

from aios._call import Call
from aios._calls import Calls
from aios._context import Contexts
from aios._exchange import Exchange, current_program
from aios._link import Link
from aios._llm import LLM, GenerationOptions
from aios._memory import Memories
from aios._reply import Reply, reply, result_of
from aios._request import CallOptions
from aios._storage import Storage
from aios._tool_loop import DEFAULT_MAX_STEPS, ToolChoice, ToolMode, ToolTalk, chat_with_tools
from aios._tool_schema import ToolOptions
from aios._tools import Tools
from aios._tracing import Tracing
from aios_proto.errors import InvalidRequest, Unauthenticated
from aios_proto.ids import new_syscall_id
from aios_proto.messages.access import WhoamiResult
from aios_proto.messages.llm import ChatMessage
from aios_proto.names import is_syscall_id
from aios_proto.tls import context_of_environment
from aios_proto.tokens import AgentToken

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
CONNECT_TIMEOUT_S: Final = 5.0

F = TypeVar("F", bound=Callable[..., object])


class Agent:
    """An agent, open between `async with Agent() as agent:` and its end.

    Closing it lets go of the calls that still run: they go on in the kernel, and `agent.calls.attach` takes them up
    again. All methods belong to the event loop that opened it; `SyncAgent` is for programs without one.

    Attributes:
        tenant: whom the agent belongs to.
        name: the agent's own name.
        program: the agent run its calls are scheduled as; one for each `Agent` unless given.
        llm: model calls.
        calls: calls about calls.
        memory: notes that last.
        contexts: conversations kept by the kernel.
        storage: files with versions.
        tools: tools, to call and to serve.

    Args:
        token: the credential `<tenant>.<agent>.<secret>`; by default AIOS_TOKEN.
        url: the bus, or several of its servers separated by commas; by default AIOS_URL.
        program: 1 to 64 letters, digits, `_` or `-`; by default a fresh ULID.
        connect_timeout_s: how long to try to connect.
        tls: for a bus that speaks TLS; by default made of AIOS_TLS_CA, AIOS_TLS_CERT and AIOS_TLS_KEY, where the
            first is set.

    Raises:
        Unauthenticated: there is no token, or it is not of that form.
        InvalidRequest: the program is no legal name, or a file of AIOS_TLS_* cannot be used.
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
        text = token if token is not None else os.environ.get("AIOS_TOKEN", "")
        if not text:
            raise Unauthenticated("no token: pass `token` or set AIOS_TOKEN", field="token")
        self.program = _checked_program(program)
        self._token = AgentToken.parse(text)
        addresses = url if url is not None else os.environ.get("AIOS_URL") or DEFAULT_URL
        self._urls = [address.strip() for address in addresses.split(",") if address.strip()]
        self._connect_timeout_s = connect_timeout_s
        self._tls = context_of_environment() if tls is None else tls
        self.tenant = self._token.tenant
        self.name = self._token.agent
        self._tracing = Tracing(self.tenant, self.name)
        self._exchange = Exchange(self._token, self.program, self._tracing)
        self.llm = LLM(self._exchange)
        self.calls = Calls(self._exchange)
        self.memory = Memories(self._exchange)
        self.contexts = Contexts(self._exchange)
        self.storage = Storage(self._exchange)
        self.tools = Tools(self._exchange, self._exchange.tools)

    def __repr__(self) -> str:
        return f"<Agent {self.tenant}.{self.name} program {self.program}>"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now. A lost one is replaced by itself."""
        return self._exchange.connected

    async def connect(self) -> None:
        """Connects, and keeps connected until `close`.

        Raises:
            Unauthenticated: the bus does not accept the token.
            AccessDenied: the bus does not let the agent hear its replies.
            BusUnavailable: no server could be reached in time.
        """
        if self._exchange.opened:
            return
        link = Link(self._urls, self._token, self._exchange, tls=self._tls, name=f"agent {self.tenant}.{self.name}")
        await self._exchange.open(link, self._connect_timeout_s)
        if self.tools.served:
            await self.tools.serve()

    async def close(self) -> None:
        """Disconnects and exports the spans. Who still waits for a call gets `BusUnavailable`."""
        await self._exchange.close()
        await self._tracing.flush()

    @overload
    def tool(self, function: F, /) -> F: ...
    @overload
    def tool(self, /, **options: Unpack[ToolOptions]) -> Callable[[F], F]: ...
    def tool(self, function: F | None = None, /, **options: Unpack[ToolOptions]) -> F | Callable[[F], F]:
        """Serves a function with type hints as a tool of the tenant: `@agent.tool(effects=["read_only"])`.

        Its parameters become the JSON Schema of the arguments, its return type that of the answer, its docstring the
        description. A parameter of type `ToolContext` is filled in. One that is not async runs in a thread.

        Args:
            function: where no option is given: `@agent.tool`.
            **options: see `ToolOptions`.

        Raises:
            InvalidRequest: the function cannot be a tool.
        """
        if function is not None:
            return self.tools.declare(function)
        return lambda declared: self.tools.declare(declared, **options)

    async def chat_with_tools(
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
        """Lets a model solve a task with tools: it asks for calls, gets what they say, until it answers.

        The calls of one turn run together. What goes wrong with a tool is told to the model. A turn that asks for
        nothing but what the turn before got is not run again, and the model must answer then. What tools say is
        untrusted; `ToolTalk.taint` says whose the model has seen.

        Args:
            task: what is to be done, or a conversation to go on with.
            tools: names of the tools the model may use; None means all that are up.
            mode: `schema` holds the model to legal calls and works with small ones; `text` reads JSON out of what it
                writes, fenced or not; `native` uses the tool calls of chat, where the worker offers them.
            tool_choice: `required` lets the model answer only after it has used a tool, which small models need;
                `none` lets it use none.
            output: type of the answer, such as a pydantic model; None is a text.
            system: said before the instructions.
            max_steps: turns of the model; in the last it can only answer.
            calls_at_once: calls one turn may ask for, at most 8.
            **options: of each model call; `deadline_s` and `priority` hold for the calls of tools too.

        Raises:
            ResourceNotFound: there is no tool of such a name.
            AiosError: a model call failed.
        """
        return await chat_with_tools(
            self.llm,
            self.tools,
            task,
            tools,
            mode=mode,
            tool_choice=tool_choice,
            output=output,
            system=system,
            max_steps=max_steps,
            calls_at_once=calls_at_once,
            options=options,
        )

    def whoami(self, **options: Unpack[CallOptions]) -> Call[WhoamiResult]:
        """Asks how the kernel sees this agent."""
        return self._exchange.call("access", "whoami", None, result_of(WhoamiResult), options)

    def syscall(
        self,
        manager: str,
        operation: str,
        body: Mapping[str, JsonValue] | BaseModel | None = None,
        **options: Unpack[CallOptions],
    ) -> Call[Reply]:
        """Makes any system call; its body is checked by the kernel only. The call is on its way when this returns.

        Args:
            manager: such as `scheduler`.
            operation: such as `state`.
            body: a JSON object or one of the models of `aios_proto.messages`.
            **options: see `CallOptions`.

        Raises:
            InvalidRequest: a name or an option is wrong, or the body cannot be written as JSON.
            RequestTooLarge: the body has more than 1 MiB.
        """
        return self._exchange.call(manager, operation, body, reply, options)

    @contextlib.contextmanager
    def run(self, name: str, *, program: str | None = None) -> Iterator[str]:
        """One run of an agent: the calls made inside are one program, and their spans hang below one span.

        Args:
            name: of the agent that runs, such as `researcher`; shown in the trace.
            program: by default a fresh ULID.

        Yields:
            The program.

        Raises:
            InvalidRequest: the program is no legal name.
        """
        program = _checked_program(program)
        span = self._tracing.start_run(name, program)
        token = current_program.set(program)
        failure: BaseException | None = None
        try:
            yield program
        except BaseException as error:
            failure = error
            raise
        finally:
            current_program.reset(token)
            if span is not None:
                span.end(failure)


def _checked_program(program: str | None) -> str:
    if program is None:
        return new_syscall_id()
    if not is_syscall_id(program):
        raise InvalidRequest("the program must be 1 to 64 letters, digits, `_` or `-`", field="program")
    return program
