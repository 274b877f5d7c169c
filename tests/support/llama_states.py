"""States as the pinned llama.cpp writes them for one sequence, with rows that differ everywhere."""

import random
import struct
from dataclasses import dataclass

MAGIC = 0xAF143CD8


@dataclass(frozen=True)
class Layout:
    """A context as a test wants it: bytes of the rows of each plane, first of K and then of V."""

    k_rows: tuple[int, ...]
    v_rows: tuple[int, ...]
    streams: int = 2

    @property
    def rows(self) -> tuple[int, ...]:
        return self.k_rows + self.v_rows


def row(plane: int, position: int, size: int) -> bytes:
    """What a plane has at a position: different everywhere."""
    return random.Random(plane * 10_000 + position).randbytes(size)


def state(layout: Layout, tokens: int, slot: int = 0, order: list[int] | None = None) -> bytes:
    """A state as llama.cpp writes it; `order` is the position in each cell."""
    order = list(range(tokens)) if order is None else order
    data = struct.pack("<3I", MAGIC, slot, layout.streams)
    for stream in range(layout.streams):
        if stream != slot or not tokens:
            data += struct.pack("<I", 0)
            continue
        data += struct.pack("<I", tokens)
        for position in order:
            data += struct.pack("<iIi", position, 1, slot)
        data += struct.pack("<4I", 0, len(layout.k_rows), 0, 0)
        for plane, size in enumerate(layout.rows):
            data += struct.pack("<iQ", 1, size)
            data += b"".join(row(plane, position, size) for position in order)
    return data


def rows(layout: Layout, first: int, end: int) -> bytes:
    """The rows of some tokens, as they travel."""
    return b"".join(
        row(plane, position, size) for plane, size in enumerate(layout.rows) for position in range(first, end)
    )
