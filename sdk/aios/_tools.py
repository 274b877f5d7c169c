"""Tools: `agent.tools`, to call them, and `@agent.tool`, to serve functions as such."""

from collections.abc import Callable, Mapping
from typing import TypeVar, Unpack

from pydantic import JsonValue

from aios._call import Call
from aios._exchange import Exchange
from aios._reply import result_of
from aios._request import CallOptions
from aios._tool_host import ToolHost
from aios._tool_schema import ToolOptions, tool_function
from aios_proto.frames import Done
from aios_proto.messages.tool import ToolCallResult, ToolInfo, ToolsResult

F = TypeVar("F", bound=Callable[..., object])

_tools_result = result_of(ToolsResult)


class Tools:
    """The tools one agent can call, and those it serves.

    Functions declared with `@agent.tool` before the agent connects are served from then on; for later ones call
    `serve`. Several processes under the same identity that declare the same tool share its calls.
    """

    def __init__(self, exchange: Exchange, host: ToolHost) -> None:
        self._exchange = exchange
        self._host = host

    def call(
        self, name: str, arguments: Mapping[str, JsonValue] | None = None, **options: Unpack[CallOptions]
    ) -> Call[ToolCallResult]:
        """Calls a tool. The call is on its way when this returns; iterate over it for its progress, as text.

        What comes back is `untrusted` unless the kernel computed it itself: it must not steer the agent.

        Args:
            name: of the tool.
            arguments: a JSON object, checked against the tool's schema.
            **options: see `CallOptions`.

        Raises:
            InvalidRequest: the name or an option is wrong.
            RequestTooLarge: the arguments have more than 1 MiB.
        """
        body = {"name": name, "arguments": dict(arguments or {})}
        return self._exchange.call("tool", "call", body, result_of(ToolCallResult), options, check=True)

    def list(self, **options: Unpack[CallOptions]) -> "Call[list[ToolInfo]]":
        """Asks which tools there are for this agent's tenant, and how they are."""
        return self._exchange.call("tool", "list", None, _tools, options)

    def declare(self, function: F, **options: Unpack[ToolOptions]) -> F:
        """Makes a function with type hints a tool, see `Agent.tool`.

        Raises:
            InvalidRequest: it cannot be one.
        """
        self._host.declare(tool_function(function, options))
        return function

    async def serve(self) -> None:
        """Registers the functions that were declared since the agent connected.

        Raises:
            ResourceConflict: a tool of that name belongs to the kernel or to another agent.
            AiosError: the kernel does not take one.
        """
        await self._host.register()

    @property
    def served(self) -> tuple[str, ...]:
        """Names of the functions this agent has declared."""
        return self._host.names


def _tools(done: Done, trace_id: str | None) -> "list[ToolInfo]":
    return _tools_result(done, trace_id).tools
