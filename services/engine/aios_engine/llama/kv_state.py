"""How llama.cpp lays out the KV of one sequence as bytes, and how the rows of some of its tokens are got at.

The state of a sequence in the pinned version, little-endian: magic, sequence and number of streams (u32 each); for each
stream the number of its cells (u32); and in the one stream that has any, behind that number: the cells (position i32,
number of sequences u32 and one sequence i32 each), a mark for transposed V, the number of layers and two zeros (u32
each), and first for K and then for V a plane of each layer: type (i32), bytes of a row (u64), a row of each cell.

What a context writes depends on how many streams it has, so the rows alone travel: plane by plane, without headers. A
state is told to be of this form by being taken apart and put together again: where that does not give the same bytes,
such as for recurrent layers or a sliding window, there is no form, and its states travel as they are.
"""

import itertools
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

State: TypeAlias = bytes | bytearray | memoryview
Bytes: TypeAlias = npt.NDArray[np.uint8]

_TOP: Final = struct.Struct("<3I")
_COUNT: Final = struct.Struct("<I")
_LAYERS: Final = struct.Struct("<4I")
_PLANE: Final = struct.Struct("<iQ")
_CELL: Final = np.dtype([("position", "<i4"), ("sequences", "<u4"), ("sequence", "<i4")])


@dataclass(frozen=True, slots=True)
class _Run:
    """Planes that follow each other and have rows of one size."""

    planes: int
    row_bytes: int
    headers: bytes


@dataclass(frozen=True, slots=True)
class KvForm:
    """The form of a context's states.

    Attributes:
        magic: at their beginning.
        streams: of the context.
        runs: its planes.
    """

    magic: int
    streams: int
    runs: tuple[_Run, ...]

    @property
    def token_bytes(self) -> int:
        """Bytes of the rows of one token."""
        return sum(run.planes * run.row_bytes for run in self.runs)

    @property
    def planes(self) -> int:
        """Planes in all: two for each layer."""
        return sum(run.planes for run in self.runs)

    def state_bytes(self, tokens: int) -> int:
        """Bytes of a state of so many tokens."""
        around = _TOP.size + self.streams * _COUNT.size + _LAYERS.size + self.planes * _PLANE.size
        return around + tokens * (_CELL.itemsize + self.token_bytes)

    def rows(self, state: State | Bytes, first: int, end: int) -> bytearray:
        """The rows of the tokens from position `first` up to `end`, in order of position.

        Args:
            state: of a sequence, in this form.
            first: position of the first token.
            end: of the first one behind them.

        Raises:
            ValueError: it is in another form, or has no such tokens.
        """
        data = np.frombuffer(state, np.uint8)
        count, at = self._find(data)
        if not 0 <= first < end <= count:
            raise ValueError(f"{count} tokens have no part from {first} to {end}")
        order = _order(data[at : at + count * _CELL.itemsize].view(_CELL))
        at += count * _CELL.itemsize + _LAYERS.size
        taken = bytearray((end - first) * self.token_bytes)
        into, done = np.frombuffer(taken, np.uint8), 0
        for run in self.runs:
            stride = _PLANE.size + count * run.row_bytes
            planes = data[at : at + run.planes * stride].reshape(run.planes, stride)[:, _PLANE.size :]
            shape = run.planes, end - first, run.row_bytes
            size = run.planes * (end - first) * run.row_bytes
            target = into[done : done + size].reshape(shape)
            if order is None:
                target[:] = planes[:, first * run.row_bytes : end * run.row_bytes].reshape(shape)
            else:
                target[:] = planes.reshape(run.planes, count, run.row_bytes)[:, order[first:end]]
            at += run.planes * stride
            done += size
        return taken

    def compose(self, tokens: int, pieces: Iterable[tuple[int, State]]) -> bytearray:
        """The state of a sequence, for any slot.

        Args:
            tokens: how many it has.
            pieces: the position of their first token, and their rows; later ones go over earlier ones, and together
                they have each of the tokens.
        """
        state = bytearray(self.state_bytes(tokens))
        into = np.frombuffer(state, np.uint8)
        _TOP.pack_into(state, 0, self.magic, 0, self.streams)
        _COUNT.pack_into(state, _TOP.size, tokens)
        at = _TOP.size + _COUNT.size
        cells = into[at : at + tokens * _CELL.itemsize].view(_CELL)
        cells["position"], cells["sequences"] = np.arange(tokens), 1
        at += tokens * _CELL.itemsize
        _LAYERS.pack_into(state, at, 0, self.planes // 2, 0, 0)
        at += _LAYERS.size
        targets = []
        for run in self.runs:
            stride = _PLANE.size + tokens * run.row_bytes
            planes = into[at : at + run.planes * stride].reshape(run.planes, stride)
            planes[:, : _PLANE.size] = np.frombuffer(run.headers, np.uint8).reshape(run.planes, _PLANE.size)
            targets.append((run, planes[:, _PLANE.size :]))
            at += run.planes * stride
        for first, piece in pieces:
            data, done = np.frombuffer(piece, np.uint8), 0
            count = len(data) // self.token_bytes
            fits = max(0, min(count, tokens - first))  # a later piece may end before this one begins
            for run, planes in targets:
                size = run.planes * count * run.row_bytes
                rows = data[done : done + size].reshape(run.planes, count * run.row_bytes)
                planes[:, first * run.row_bytes : (first + fits) * run.row_bytes] = rows[:, : fits * run.row_bytes]
                done += size
        return state

    def _find(self, data: Bytes) -> tuple[int, int]:
        """The number of cells, and where they begin."""
        if len(data) < self.state_bytes(0):
            raise ValueError("it is no state of this form")
        magic, _, streams = _TOP.unpack_from(data.data)
        count, at = _first_count(data, self.streams)
        if (magic, streams, len(data)) != (self.magic, self.streams, self.state_bytes(count)):
            raise ValueError("it is no state of this form")
        if _LAYERS.unpack_from(data.data, at + count * _CELL.itemsize) != (0, self.planes // 2, 0, 0):
            raise ValueError("it is no state of this form")
        return count, at


def form_of(state: State) -> KvForm | None:
    """The form of a state of slot 0 with tokens in it; None if it is not laid out as described above."""
    try:
        form, count = _read(np.frombuffer(state, np.uint8))
        same = form.compose(count, [(0, form.rows(state, 0, count))]) == state
    except (ValueError, struct.error):
        return None
    return form if same else None


def _read(data: Bytes) -> tuple[KvForm, int]:
    """What a state says of its form, and how many cells it has."""
    magic, _, streams = _TOP.unpack_from(data.data)
    count, at = _first_count(data, streams)
    at += count * _CELL.itemsize
    layers = _LAYERS.unpack_from(data.data, at)[1]
    at += _LAYERS.size
    planes = []
    for _ in range(2 * layers):
        row_bytes = _PLANE.unpack_from(data.data, at)[1]
        planes.append((row_bytes, bytes(data[at : at + _PLANE.size])))
        at += _PLANE.size + count * row_bytes
    runs = []
    for row_bytes, group in itertools.groupby(planes, key=lambda plane: plane[0]):
        headers = [header for _, header in group]
        runs.append(_Run(len(headers), row_bytes, b"".join(headers)))
    if not runs:
        raise ValueError("it has no layers")
    return KvForm(magic, streams, tuple(runs)), count


def _first_count(data: Bytes, streams: int) -> tuple[int, int]:
    """The number of cells in the first stream that has any, and the place behind that number."""
    counts = data[_TOP.size : _TOP.size + streams * _COUNT.size].view("<u4")
    stream = int(np.argmax(counts != 0))
    return int(counts[stream]), _TOP.size + (stream + 1) * _COUNT.size


def _order(cells: npt.NDArray[np.void]) -> npt.NDArray[np.intp] | None:
    """Which cell each position is in; None where cell and position are the same."""
    positions, wanted = cells["position"], np.arange(len(cells))
    if np.array_equal(positions, wanted):
        return None
    order = np.argsort(positions)
    if not np.array_equal(positions[order], wanted):
        raise ValueError("it has not all positions from the first on")
    return order
