"""Who else may read or write an agent's files: grants on a file or on everything below a folder."""

from dataclasses import dataclass, replace
from typing import Literal

import orjson

from aios_proto.messages.storage import Grant, Right
from aios_storage.core.paths import is_below

Wish = Literal["read", "write", "none"]
MAX_GRANTS = 1000


@dataclass(frozen=True, slots=True)
class Given:
    """One grant: `agent` may do that at `path` and below."""

    path: str
    agent: str
    right: Right


@dataclass(frozen=True, slots=True)
class Grants:
    """All grants of one owner."""

    given: tuple[Given, ...] = ()

    def allow(self, agent: str, path: str, right: Right) -> bool:
        """Whether `agent` may do that at this path. Writing includes reading."""
        return any(
            one.agent == agent and is_below(path, one.path) and (right == "read" or one.right == "write")
            for one in self.given
        )

    def changed(self, path: str, agent: str, wish: Wish) -> "Grants":
        """After a grant at exactly this path was given, changed or, with `none`, taken back."""
        others = tuple(one for one in self.given if (one.path, one.agent) != (path, agent))
        return Grants(others if wish == "none" else (*others, Given(path, agent, wish)))

    def moved(self, source: str, target: str) -> "Grants":
        """After a file moved within the owner's tree: the grants on exactly this file go with it.

        Those on a folder stay with the folder: a file that leaves it is no longer shared by them.
        """
        return Grants(tuple(replace(one, path=target) if one.path == source else one for one in self.given))

    def without(self, path: str) -> "Grants":
        """After the file at exactly this path went away for good, or into another's tree."""
        return Grants(tuple(one for one in self.given if one.path != path))

    def shown(self) -> list[Grant]:
        """As the owner sees them."""
        return [Grant(path=one.path, agent=one.agent, right=one.right) for one in self.given]

    def encode(self) -> bytes:
        """For the store."""
        return orjson.dumps([[one.path, one.agent, one.right] for one in self.given])

    @classmethod
    def decode(cls, data: bytes) -> "Grants":
        """From the store."""
        return cls(tuple(Given(path, agent, right) for path, agent, right in orjson.loads(data)))
