"""Runs the built-in tools inside the manager's own process; what takes long there goes to a process or a thread."""

from collections.abc import Iterable

from pydantic import JsonValue

from aios_tool.core.builtin import Builtin
from aios_tool.ports import Attempt, NotStarted, Progress


class BuiltinRunner:
    """The `Runner` of built-in tools."""

    def __init__(self, tools: Iterable[Builtin]) -> None:
        self.tools = {tool.spec.name: tool for tool in tools}

    def add(self, tool: Builtin) -> None:
        """Adds one that was found to work on this host."""
        self.tools[tool.spec.name] = tool

    async def run(self, attempt: Attempt, progress: Progress) -> JsonValue:
        """See `Runner.run`."""
        tool = self.tools.get(attempt.tool.spec.name)
        if tool is None:
            raise NotStarted
        return await tool.work(attempt)
