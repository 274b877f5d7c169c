"""What the memory manager needs from outside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aios_proto.headers import CallHeaders


@dataclass(frozen=True, slots=True)
class Stored:
    """One record as it is stored now."""

    key: str
    content: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of some texts, and what they may be compared with: those of the same model."""

    vectors: Sequence[Sequence[float]]
    model: str
    dimensions: int


class RecordStore(Protocol):
    """The source of truth: records by key, each with a revision. A change that returns is on disk.

    All methods raise `BusUnavailable` where the store cannot be reached: the change may have happened or not.
    """

    async def get(self, tenant: str, key: str) -> Stored | None:
        """One record; None where there is none."""

    async def below(self, tenant: str, prefix: str) -> Sequence[Stored]:
        """All records whose keys begin with `<prefix>.`."""

    async def create(self, tenant: str, key: str, content: bytes, ttl_s: float | None = None) -> int | None:
        """Adds a record and returns its revision; None where there is one of this key."""

    async def replace(
        self, tenant: str, key: str, content: bytes, revision: int, ttl_s: float | None = None
    ) -> int | None:
        """Puts a record in the place of the one of that revision; None where that is not the newest."""

    async def remove(self, key: str, call: str) -> None:
        """Removes a record and remembers which call did."""

    async def removed_by(self, key: str) -> str | None:
        """The call that removed a record; None where there is one, or never was."""

    async def keys_below(self, prefix: str) -> Sequence[str]:
        """The keys that begin with `<prefix>.`, or all for an empty prefix."""

    async def rewrap(self, tenant: str) -> int:
        """Brings a tenant's records under its current key; returns how many were not."""

    async def purge(self, tenant: str) -> None:
        """Removes all records of a tenant, without a trace."""


class Embedding(Protocol):
    """Turns texts into vectors, in an agent's name."""

    async def embed(self, texts: Sequence[str], on_behalf: CallHeaders, deadline_s: float) -> Embedded:
        """One vector per text.

        Raises:
            AiosError: it cannot be done now.
        """
