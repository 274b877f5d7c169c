"""What one line of a context's log says, and how it is written: always the same bytes for the same record."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import orjson
from pydantic import JsonValue

Message = dict[str, JsonValue]

EMPTY_DIGEST = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the log: a turn, a summary, or the pinning of an earlier turn.

    Attributes:
        version: of the context once this was written.
        message: the turn, as the fields of a `ChatMessage` that are not None; None for a pinning.
        pinned: whether the turn was written to stay in every window.
        summary_of: first and last turn this one stands for.
        pins: number of an earlier turn, and whether it is pinned from here on.
    """

    version: int
    message: Message | None = None
    pinned: bool = False
    summary_of: tuple[int, int] | None = None
    pins: tuple[int, bool] | None = None

    def line(self) -> bytes:
        """The record as one line of JSON without the line's end."""
        fields: dict[str, object] = {"v": self.version}
        if self.message is not None:
            fields["m"] = self.message
        if self.pinned:
            fields["p"] = True
        if self.summary_of is not None:
            fields["s"] = self.summary_of
        if self.pins is not None:
            fields["pins"] = self.pins
        return orjson.dumps(fields)


def parse(line: bytes) -> Record:
    """The record of a line that `Record.line` wrote.

    Raises:
        ValueError: it is not one.
    """
    try:
        fields = orjson.loads(line)
        summary_of, pins = fields.get("s"), fields.get("pins")
        return Record(
            version=fields["v"],
            message=fields.get("m"),
            pinned=fields.get("p", False),
            summary_of=None if summary_of is None else (summary_of[0], summary_of[1]),
            pins=None if pins is None else (pins[0], pins[1]),
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"not a record of a context: {error!r}") from error


def chained(digest: str, lines: Iterable[bytes]) -> str:
    """The log's digest after more lines: each step is SHA-256 over the digest before and the line.

    A chain can go on from the stored digest, so an append need not read the log.
    """
    for line in lines:
        digest = hashlib.sha256(digest.encode() + line).hexdigest()
    return digest
