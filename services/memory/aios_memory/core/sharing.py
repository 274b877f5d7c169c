"""Who may do what with an owner's notes: an agent with its own everything, all others what the lists say."""

from dataclasses import dataclass, replace
from typing import Literal

import orjson

from aios_memory.core.note import SCHEMA, Owner
from aios_proto.errors import AccessDenied, InternalError

Right = Literal["read", "write"]


@dataclass(frozen=True, slots=True)
class Sharing:
    """The lists of one owner. A writer may read.

    Attributes:
        master: the agent that may change them.
        readers: in the order in which they were let in.
        writers: the same.
    """

    master: str
    readers: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()

    def allows(self, agent: str, right: Right) -> bool:
        """Whether an agent may."""
        if agent == self.master or agent in self.writers:
            return True
        return right == "read" and agent in self.readers

    def granted(self, agent: str, right: Right) -> "Sharing":
        """With one more entry."""
        readers, writers = self.readers, self.writers
        if right == "read":
            readers = tuple(dict.fromkeys((*readers, agent)))
        else:
            writers = tuple(dict.fromkeys((*writers, agent)))
        return replace(self, readers=readers, writers=writers)

    def revoked(self, agent: str, right: Right) -> "Sharing":
        """Without an entry. Who may not read may not write either."""
        writers = tuple(name for name in self.writers if name != agent)
        if right == "write":
            return replace(self, writers=writers)
        return replace(self, readers=tuple(name for name in self.readers if name != agent), writers=writers)

    def encoded(self) -> bytes:
        """As it is stored."""
        return orjson.dumps({"v": SCHEMA, "master": self.master, "readers": self.readers, "writers": self.writers})

    @classmethod
    def decoded(cls, data: bytes) -> "Sharing":
        """From what was stored.

        Raises:
            InternalError: it cannot be read.
        """
        try:
            said = orjson.loads(data)
            if said["v"] != SCHEMA:
                raise InternalError(f"access lists of schema {said['v']} cannot be read, only {SCHEMA}")
            return cls(said["master"], tuple(said["readers"]), tuple(said["writers"]))
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise InternalError("stored access lists cannot be read") from error


def check(owner: Owner, sharing: Sharing | None, agent: str, right: Right) -> None:
    """Lets a call pass, or not.

    Raises:
        AccessDenied: the agent may not. Of a pool that does not exist the same is said, so that names do not leak.
    """
    if owner.kind == "agent" and owner.name == agent:
        return
    if sharing is None or not sharing.allows(agent, right):
        what = f"pool {owner.name}" if owner.kind == "pool" else f"memories of {owner.name}"
        field = "pool" if owner.kind == "pool" else "agent"
        raise AccessDenied(f"there is no grant to {right} the {what}", field=field)
