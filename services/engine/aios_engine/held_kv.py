"""The KV that is given away, taken in and held: of running sequences, in slots, and on the shelf.

Everything here happens in the engine thread, between two steps, so it does no more than it must: rows are taken out of
a slot, and all that can be done with bytes alone is left to `kv_transfer`, in another thread.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from aios_engine.core.kv_image import KvWanted
from aios_engine.core.kv_shelf import KvShelf, ShelvedKv
from aios_engine.core.planner import Planner
from aios_engine.llama.model import Context, DecodeError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was asked for of the KV under a key.

    Attributes:
        tokens: those before `end`.
        first: position of the first one that is read.
        end: of the first one that is not; the same where nothing is new.
        data: the rows from `first` to `end`, or where `whole` a state that has them.
        whole: whether the rows are still to be taken out.
    """

    tokens: tuple[int, ...]
    first: int
    end: int
    data: bytes | bytearray = b""
    whole: bool = False


class HeldKv:
    """KV by key."""

    def __init__(self, context: Context, planner: Planner, shelf_bytes: int) -> None:
        """Holds nothing.

        Args:
            context: has the slots.
            planner: knows whose tokens they hold, and is told what happens to the shelf.
            shelf_bytes: memory for held KV that has lost its slot.
        """
        self._context = context
        self._planner = planner
        self._shelf = KvShelf(shelf_bytes)

    def holds(self, key: str) -> bool:
        """Whether KV is held under a key."""
        return self._planner.holding(key) is not None or self._shelf.get(key) is not None

    def read(self, key: str, sequence: int | None, wanted: KvWanted) -> Reading | None:
        """KV under a key.

        Args:
            key: of a paused sequence.
            sequence: one that runs or waits under this key, whose KV it is as soon as there is some.
            wanted: which part of it.

        Returns:
            The part; None if the key is not known.

        Raises:
            DecodeError: it cannot be read.
        """
        place = (None if sequence is None else self._planner.place(sequence)) or self._planner.holding(key)
        if place is not None:
            return self._from_slot(*place, wanted)
        shelved = self._shelf.get(key)
        if shelved is not None:
            first, end = wanted.part(shelved.tokens, self._token_bytes)
            return Reading(shelved.tokens[:end], first, end, shelved.state, whole=True)
        return None if sequence is None else Reading((), wanted.after, wanted.after)

    def read_all(self, wanted: Mapping[str, tuple[int | None, KvWanted]]) -> dict[str, Reading]:
        """KV under several keys: the arguments of `read` for each. Those not known or not to be read are left out."""
        readings = {}
        for key, (sequence, part) in wanted.items():
            try:
                reading = self.read(key, sequence, part)
            except DecodeError as error:
                _log.warning("KV cannot be read: %s", error)
                continue
            if reading is not None:
                readings[key] = reading
        return readings

    def _from_slot(self, slot: int, tokens: tuple[int, ...], wanted: KvWanted) -> Reading:
        first, end = wanted.part(tokens, self._token_bytes)
        if first == end:
            return Reading(tokens, first, end)
        if self._context.form is None:
            return Reading(tokens, first, end, self._context.save(slot), whole=True)
        return Reading(tokens[:end], first, end, self._context.rows(slot, first, end))

    @property
    def _token_bytes(self) -> int | None:
        form = self._context.form
        return None if form is None else form.token_bytes

    def put(self, key: str, kv: ShelvedKv) -> None:
        """Holds KV from outside under a key."""
        self._planner.shelve(key, kv.tokens)
        self._shelve(key, kv)

    def release(self, key: str) -> bool:
        """Holds a key no longer; whether it was held."""
        in_slot = self._planner.holding(key) is not None
        self._planner.release(key)
        return self._shelf.drop(key) or in_slot

    def make_room(self, key: str, slot: int) -> None:
        """Puts what a slot holds under a key on the shelf."""
        tokens = self._planner.on_shelf(key)
        try:
            self._shelve(key, ShelvedKv(tokens, self._context.save(slot)))
        except DecodeError as error:
            _log.warning("held KV is lost: %s", error)
            self._planner.release(key)

    def restore(self, key: str, slot: int) -> bool:
        """Puts KV from the shelf into a slot; whether that could be done. If not, it is not held any more."""
        kv = self._shelf.get(key)
        if kv is not None and self._context.restore(slot, kv.state):
            return True
        self.release(key)
        return False

    def started(self, key: str | None, source: str | None) -> None:
        """Notes that a sequence runs under a key: what it has started from under the same key is its own now.

        Args:
            key: its own, if it has one.
            source: the key it was to start from. Under another one it is still held, as others may start from it.
        """
        if key is not None and key == source:
            self.release(key)

    def paused(self, key: str) -> None:
        """Notes that a sequence has ended that was to be held: what the shelf has under its key is older."""
        if self._planner.holding(key) is not None:
            self._shelf.drop(key)

    def _shelve(self, key: str, kv: ShelvedKv) -> None:
        for gone in self._shelf.put(key, kv):
            self._planner.release(gone)
