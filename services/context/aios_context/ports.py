"""What the context manager needs from outside."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from aios_context.core.head import Head, Snapshot
from aios_proto.headers import CallHeaders
from aios_proto.messages.llm import ChatMessage


class Changed(Exception):
    """What was to be written has been changed by someone else since it was read."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A head as the store has it, and the revision a write must name."""

    head: Head
    revision: int


class ContextStore(Protocol):
    """Where heads, snapshots and segments are kept, shared by all replicas.

    Every method raises `BusUnavailable` where the store cannot be reached. What a write has returned from survives a
    crash of any process.
    """

    async def head(self, tenant: str, agent: str, name: str) -> Stored | None:
        """The newest head, also one that is closed or has expired."""

    async def write(self, head: Head, revision: int) -> int:
        """Writes a head over the revision it was made from, 0 for none, and returns the new one.

        Raises:
            Changed: the store has another revision.
        """

    async def snapshot(self, tenant: str, agent: str, snapshot: str) -> Snapshot | None:
        """A snapshot, also one that has expired."""

    async def add_snapshot(self, snapshot: Snapshot) -> None:
        """Writes a snapshot.

        Raises:
            Changed: there is one of that name.
        """

    async def remove_snapshot(self, tenant: str, agent: str, snapshot: str) -> None:
        """Removes a snapshot, if it is there."""

    async def names(self, tenant: str, agent: str) -> tuple[int, int]:
        """How many heads and snapshots of an agent are stored, those gone but not yet swept included."""

    def heads(self, tenant: str, agent: str) -> AsyncIterator[Stored]:
        """All heads of an agent."""

    def snapshots(self, tenant: str, agent: str) -> AsyncIterator[Snapshot]:
        """All snapshots of an agent."""

    async def put_segment(self, key: str, value: bytes) -> None:
        """Writes a segment; writing it again makes it young again for the sweep."""

    async def segment(self, key: str) -> bytes:
        """A segment's content.

        Raises:
            InternalError: it is not there, or not what was written.
        """


@dataclass(frozen=True, slots=True)
class Counts:
    """What texts cost a model.

    Attributes:
        tokens: of each text.
        turn_overhead: what the chat template adds to each turn.
        prompt_overhead: what it adds once.
        max_input_tokens: longest prompt of the model.
        max_total_tokens: longest prompt and answer together.
        model: that counted.
    """

    tokens: Sequence[int]
    turn_overhead: int
    prompt_overhead: int
    max_input_tokens: int
    max_total_tokens: int
    model: str


class Tokeniser(Protocol):
    """Counts tokens."""

    async def count(self, texts: Sequence[str], model: str | None, on_behalf: CallHeaders) -> Counts:
        """Counts the tokens of texts.

        Raises:
            AiosError: no worker of that model could be asked.
        """


class Summariser(Protocol):
    """Asks a model."""

    async def ask(
        self, messages: list[ChatMessage], max_tokens: int, model: str | None, on_behalf: CallHeaders, call_id: str
    ) -> str:
        """Its answer, at the lowest priority.

        Raises:
            AiosError: the call failed.
        """
