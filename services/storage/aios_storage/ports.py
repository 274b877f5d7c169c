"""What the storage manager needs from outside."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Outdated(Exception):
    """A change was based on what is no longer so; nothing of the commit was done."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands under a key.

    Attributes:
        value: None where nothing does.
        revision: grows with every change of the key; 0 where there never was one.
        written_s: Unix time of that change; 0 where there never was one.
    """

    value: bytes | None
    revision: int
    written_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a commit.

    Attributes:
        key: tokens separated by dots.
        value: None removes what stands there.
        revision: what the key must be at, 0 for never used; None for whatever.
        ttl_s: seconds after which the key is gone by itself; None for never.
    """

    key: str
    value: bytes | None
    revision: int | None
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One key as a scan or a watch shows it."""

    key: str
    value: bytes | None
    revision: int


class Store(Protocol):
    """Keys and values, shared by all replicas and on disk when acknowledged.

    Patterns are keys in which `*` stands for one token and a last `>` for the rest. All methods raise `BusUnavailable`
    where the store cannot be reached.
    """

    async def get(self, key: str) -> Entry:
        """The newest value, never an older one."""

    async def fetch(self, key: str) -> bytes | None:
        """A value that never changes once written; may come from any replica."""

    async def commit(self, changes: Sequence[Change]) -> int:
        """Makes all changes or none; returns a revision: the changes have it and those just before it, in order.

        Raises:
            Outdated: a key was not at the revision it had to be.
        """

    async def keys(self, pattern: str) -> list[str]:
        """All keys of a pattern."""

    def scan(self, pattern: str) -> AsyncIterator[Seen]:
        """All present values of a pattern."""

    async def watch(self, pattern: str, seen: Callable[[Seen | None], Awaitable[None]]) -> None:
        """Calls `seen` with every present value, then with None, then with every change, for ever."""

    async def purge(self, pattern: str) -> None:
        """Removes all keys of a pattern, without a trace."""
