"""What a built-in tool is: a declaration and the function that does it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import JsonValue

from aios_proto.messages.tool import ToolSpec
from aios_tool.ports import Attempt

Work = Callable[[Attempt], Awaitable[JsonValue]]


@dataclass(frozen=True, slots=True)
class Builtin:
    """One built-in tool.

    Attributes:
        spec: its declaration.
        work: answers one attempt; raises `AiosError` where it cannot.
    """

    spec: ToolSpec
    work: Work
