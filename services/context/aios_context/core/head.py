"""What is kept of a context in one place: everything but the older parts of its log, which segments hold.

A head and its value in the store are the same thing: one JSON line, then the newest lines of the log as they are. So
a small append is one write, atomic with everything it changes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import cast

import orjson

from aios_context.core.record import EMPTY_DIGEST
from aios_proto.messages.context import WindowPolicy


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """An immutable part of the log, shared by all contexts and snapshots that have it in common.

    Attributes:
        key: where the store has it; made from its content.
        last_version: of its last record.
        size_bytes: its size.
    """

    key: str
    last_version: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Remembered:
    """A call that changed the context, for when it comes again: what it made of the context.

    Attributes:
        call_id: the call.
        before: the context's version before it.
        extra: figures of its answer that cannot be had otherwise.
    """

    call_id: str
    before: int
    version: int
    turns: int
    size_bytes: int
    digest: str
    extra: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Head:
    """A context.

    Attributes:
        tenant: of its owner.
        agent: its owner.
        name: its name among the owner's.
        version: counts changes, from 1.
        window_tokens: most tokens of a prompt made of it; None is what the model takes.
        model: whose tokens are counted; None is the pool's default model.
        ttl_s: seconds it is kept after its last change; None is for ever.
        readers: other agents of the tenant that may read it.
        created_by: id of the call that made it.
        changed_ms: Unix time of its last change.
        closed: whether it is gone and kept only so that its last calls can be answered again.
        turns: in the whole log.
        size_bytes: of the whole log.
        digest: of the whole log, see `record.chained`.
        rewrites: changes of what earlier turns mean: summaries and restores.
        segments: the older part of the log.
        tail: the newest lines of the log.
        gaps: versions that a restore has undone, first and last.
        remembered: the last calls that changed it, oldest first.
    """

    tenant: str
    agent: str
    name: str
    version: int
    policy: WindowPolicy
    created_by: str
    created_ms: int
    changed_ms: int
    window_tokens: int | None = None
    model: str | None = None
    ttl_s: float | None = None
    readers: tuple[str, ...] = ()
    closed: bool = False
    turns: int = 0
    size_bytes: int = 0
    digest: str = EMPTY_DIGEST
    rewrites: int = 0
    segments: tuple[SegmentRef, ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()
    remembered: tuple[Remembered, ...] = ()
    tail: tuple[bytes, ...] = field(default=(), repr=False)

    def expires_ms(self) -> int | None:
        """Unix time at which it goes unless it changes before; None is never."""
        return None if self.ttl_s is None else self.changed_ms + int(self.ttl_s * 1000)

    def lives(self, now_ms: int) -> bool:
        """Whether it is neither closed nor expired."""
        expires_ms = self.expires_ms()
        return not self.closed and (expires_ms is None or now_ms < expires_ms)

    def recall(self, call_id: str) -> Remembered | None:
        """What a call that came before has made of it."""
        return next((call for call in self.remembered if call.call_id == call_id), None)

    def to_bytes(self) -> bytes:
        """The value in the store."""
        fields = asdict(replace(self, tail=()))
        del fields["tail"]
        return b"\n".join((orjson.dumps(fields), *self.tail))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A context as it was.

    Attributes:
        id: its name among the owner's snapshots.
        head: the context then.
        expires_ms: Unix time at which it goes; None is never.
    """

    id: str
    head: Head
    expires_ms: int | None = None

    def lives(self, now_ms: int) -> bool:
        """Whether it has not expired."""
        return self.expires_ms is None or now_ms < self.expires_ms

    def to_bytes(self) -> bytes:
        """The value in the store."""
        return orjson.dumps({"id": self.id, "expires_ms": self.expires_ms}) + b"\n" + self.head.to_bytes()


def parse_head(value: bytes) -> Head:
    """The head whose `to_bytes` this is.

    Raises:
        ValueError: it is none.
    """
    first, *tail = value.split(b"\n")
    try:
        fields = orjson.loads(first)
        fields["segments"] = tuple(SegmentRef(**segment) for segment in fields["segments"])
        fields["remembered"] = tuple(Remembered(**call) for call in fields["remembered"])
        fields["gaps"] = tuple((gap[0], gap[1]) for gap in fields["gaps"])
        fields["readers"] = tuple(fields["readers"])
        return Head(**fields, tail=tuple(tail))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"not a context: {error!r}") from error


def parse_snapshot(value: bytes) -> Snapshot:
    """The snapshot whose `to_bytes` this is.

    Raises:
        ValueError: it is none.
    """
    first, _, rest = value.partition(b"\n")
    try:
        fields = orjson.loads(first)
        return Snapshot(cast("str", fields["id"]), parse_head(rest), fields["expires_ms"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a snapshot: {error!r}") from error
