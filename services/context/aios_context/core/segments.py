"""When the newest lines of a log leave the head, and in which pieces."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from aios_context.core.head import Head, SegmentRef
from aios_context.core.record import parse

TAIL_BYTES = 16 * 1024
"""Lines kept in the head. An append writes the head anew, so this is what a small append costs at most; less would
make more segments, each of which is a read of its own (0.3 ms on a local bus)."""

SEGMENT_BYTES = 256 * 1024
"""A segment is closed at this size; one line may be longer (a turn has up to 1 MiB)."""


def spill(head: Head) -> tuple[Head, dict[str, bytes]]:
    """Moves the tail into segments once it is too long.

    Returns:
        The head to write, and the segments to write before it, by their keys. A key is made from the content, so
        writing a segment twice changes nothing.
    """
    if sum(len(line) + 1 for line in head.tail) <= TAIL_BYTES:
        return head, {}
    refs = list(head.segments)
    values: dict[str, bytes] = {}
    for lines in _pieces(head.tail):
        value = b"\n".join(lines)
        key = f"{head.tenant}.{head.agent}.{hashlib.sha256(value).hexdigest()[:40]}"
        values[key] = value
        refs.append(SegmentRef(key, parse(lines[-1]).version, len(value)))
    return replace(head, segments=tuple(refs), tail=()), values


def lines_of(value: bytes) -> tuple[bytes, ...]:
    """The log's lines in a segment."""
    return tuple(value.split(b"\n"))


def is_whole(key: str, value: bytes) -> bool:
    """Whether a segment's content is what its key was made from."""
    return key.rsplit(".", 1)[-1] == hashlib.sha256(value).hexdigest()[:40]


def _pieces(lines: Sequence[bytes]) -> list[list[bytes]]:
    pieces: list[list[bytes]] = [[]]
    size = 0
    for line in lines:
        if pieces[-1] and size + len(line) > SEGMENT_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(line)
        size += len(line) + 1
    return pieces
