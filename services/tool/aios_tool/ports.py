"""What the tool manager needs of others: whoever runs tools, and where claims on calls are kept."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from aios_proto.headers import CallHeaders
from aios_tool.core.registry import Tool

Progress = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a tool for one call.

    Attributes:
        call: headers of the call; its `traceparent` is the span of this attempt.
        tool: what is run.
        arguments: valid by the tool's schema.
        timeout_s: after which the caller of `run` gives up.
        fencing_token: grows with each attempt; None for tools without effects.
    """

    call: CallHeaders
    tool: Tool
    arguments: dict[str, JsonValue]
    timeout_s: float
    fencing_token: int | None


class Runner(Protocol):
    """Runs the tools of one source. A run that is cancelled stops the tool."""

    async def run(self, attempt: Attempt, progress: Progress) -> JsonValue:
        """What the tool answers.

        Raises:
            NotStarted: nobody took the call, so it certainly has not run.
            OwnerLost: whoever ran it is gone; it may have run in part.
            AiosError: the tool says that it cannot do it.
        """


class NotStarted(Exception):
    """Nobody serves the tool now; it certainly did not run."""


class OwnerLost(Exception):
    """Whoever ran the tool is gone; it may have run, or not."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A call whose side effects are ours to make.

    Attributes:
        revision: of the claim; larger than that of every claim before, so it serves as a fencing token.
    """

    revision: int


@dataclass(frozen=True, slots=True)
class Before:
    """A call that was begun before.

    Attributes:
        revision: of the claim.
        frame: its last frame; None where it never ended.
        owner: the run of the manager that began it.
    """

    revision: int
    frame: bytes | None
    owner: str


class ClaimStore(Protocol):
    """Who has begun which call, on disk: what makes side effects happen once although a manager may die."""

    async def claim(self, key: str) -> Claimed | Before:
        """Begins a call.

        Raises:
            BusUnavailable: the store cannot be reached.
        """

    async def take_over(self, key: str, revision: int) -> Claimed | None:
        """Begins a call again that was begun before; None where somebody else was faster.

        Raises:
            BusUnavailable: the store cannot be reached.
        """

    async def finish(self, key: str, revision: int, frame: bytes) -> None:
        """Keeps a call's last frame.

        Raises:
            BusUnavailable: the store cannot be reached.
        """
