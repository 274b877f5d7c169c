"""How a call of a tool is streamed: the name as soon as it is known, then the arguments as they come.

The text is held to `chat.tool_schema` and written in one style, so it is `{"function": {"_name": "f", ARGUMENTS}}`.
"""

import json
import re
from dataclasses import dataclass
from typing import Final

from aios_engine.chat import NO_TOOL

_HEAD: Final = re.compile(r'\{"function": \{"_name": ("(?:[^"\\]|\\.)*")(, |\})')


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a call: its name in the first, a part of its arguments in each."""

    name: str | None
    arguments: str


class NoToolChosen(Exception):
    """The model chose to answer in words."""


class ToolStream:
    """Turns the text of one answer into pieces of a call."""

    def __init__(self) -> None:
        self._text = ""
        self._begun = False

    def push(self, text: str) -> CallDelta | None:
        """Takes what the next token added; the piece of the call it completes, if any.

        Raises:
            NoToolChosen: the call is of `no_tool`.
        """
        self._text += text
        if not self._begun:
            return self._head()
        # The last brace belongs to the frame, and which one is last is known at the end only.
        kept = len(self._text) - len(self._text.rstrip("}"))
        return self._take(len(self._text) - kept)

    def finish(self, *, whole: bool) -> CallDelta | None:
        """What is left at the end.

        Args:
            whole: whether the answer is complete, so that its last brace is the frame's.
        """
        if not self._begun:
            return None
        return self._take(len(self._text) - 1 if whole and self._text.endswith("}") else len(self._text))

    def _head(self) -> CallDelta | None:
        head = _HEAD.match(self._text)
        if head is None:
            return None
        name = json.loads(head[1])
        if name == NO_TOOL:
            raise NoToolChosen
        self._begun = True
        rest = self._text[head.end() :]
        if head[2] == "}":
            self._text = rest
            return CallDelta(name, "{}")
        self._text = rest
        kept = len(rest) - len(rest.rstrip("}"))
        taken = self._take(len(rest) - kept)
        return CallDelta(name, "{" + ("" if taken is None else taken.arguments))

    def _take(self, count: int) -> CallDelta | None:
        taken, self._text = self._text[:count], self._text[count:]
        return CallDelta(None, taken) if taken else None
