"""What one owner has: an entry for every note, the words of all, the contents of the hot ones; quota and expiry.

The store is the source of truth; this is what a process keeps of it while it serves the owner. Contents come and go
with `LruK`; whatever leaves is in the store already, so eviction writes nothing back and a note that is asked for again
returns without anybody noticing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from aios_memory.core.lru_k import LruK
from aios_memory.core.note import Note, Owner
from aios_memory.core.words import WordIndex
from aios_proto.errors import QuotaExhausted, ResourceNotFound


@dataclass(frozen=True, slots=True)
class Limits:
    """What an owner may have.

    Attributes:
        items: notes.
        bytes: of all notes as they are stored, before encryption.
        hot_bytes: of the notes kept in memory.
        k: of LRU-K.
    """

    items: int
    bytes: int
    hot_bytes: int
    k: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What is always known of a note.

    Attributes:
        size_bytes: as it is stored, before encryption.
        mark: changes when its vector has to be made again or stored with other tags.
        revision: of the record.
        wants_model: whether the model has still to work on it.
    """

    created_ms: int
    updated_ms: int
    expires_ms: int | None
    size_bytes: int
    tags: frozenset[str]
    mark: str
    revision: int
    wants_model: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """Which notes are meant."""

    tags: tuple[str, ...] = ()
    after_ms: int | None = None
    before_ms: int | None = None

    def takes(self, entry: Entry, now_ms: int) -> bool:
        """Whether a note is meant; an expired one never is."""
        return (
            (entry.expires_ms is None or entry.expires_ms > now_ms)
            and all(tag in entry.tags for tag in self.tags)
            and (self.after_ms is None or entry.created_ms >= self.after_ms)
            and (self.before_ms is None or entry.created_ms < self.before_ms)
        )


class Space:
    """One owner's notes.

    Args:
        owner: whose they are.
        limits: what the owner may have.
    """

    def __init__(self, owner: Owner, limits: Limits) -> None:
        self.owner = owner
        self.limits = limits
        self.bytes = 0
        self.unembedded: set[str] = set()
        self._entries: dict[str, Entry] = {}
        self._words = WordIndex()
        self._hot: dict[str, Note] = {}
        self._use: LruK[str] = LruK(limits.k, limits.hot_bytes)
        self._next_expiry_ms: int | None = None
        self._reserved_items = 0
        self._reserved_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, note: object) -> bool:
        return note in self._entries

    @property
    def hot_notes(self) -> int:
        """How many contents are in memory."""
        return len(self._hot)

    # Changes

    def reserve(self, items: int, size_bytes: int) -> None:
        """Sets room aside for what is about to be written; `release` gives it back.

        Raises:
            QuotaExhausted: there is none.
        """
        if len(self._entries) + self._reserved_items + items > self.limits.items:
            raise QuotaExhausted(f"{self._name} has {self.limits.items} notes, as many as it may", field="content")
        if self.bytes + self._reserved_bytes + max(0, size_bytes) > self.limits.bytes and size_bytes > 0:
            raise QuotaExhausted(f"{self._name} has used its {self.limits.bytes} bytes", field="content")
        self._reserved_items += items
        self._reserved_bytes += max(0, size_bytes)

    def release(self, items: int, size_bytes: int) -> None:
        """Gives reserved room back, once the note is in or has failed."""
        self._reserved_items -= items
        self._reserved_bytes -= max(0, size_bytes)

    def put(self, note: Note, revision: int, size_bytes: int) -> None:
        """Takes in what the store has under a revision; what is newer already stays."""
        known = self._entries.get(note.id)
        if known is not None:
            if known.revision >= revision:
                return
            self.bytes -= known.size_bytes
        self._entries[note.id] = entry = Entry(
            note.created_ms,
            note.updated_ms,
            note.expires_ms,
            size_bytes,
            frozenset(note.tags),
            note.mark,
            revision,
            note.wants_model,
        )
        self.bytes += size_bytes
        if note.expires_ms is not None:
            self._next_expiry_ms = min(note.expires_ms, self._next_expiry_ms or note.expires_ms)
        if known is None or known.mark != entry.mark:
            self._words.put(note.id, note.text)
            self.unembedded.add(note.id)
        self.warm(note, revision)

    def warm(self, note: Note, revision: int) -> None:
        """Keeps a note's content in memory, as a use of it, unless it is not what is stored now."""
        entry = self._entries.get(note.id)
        if entry is None or entry.revision != revision:
            return
        self._hot[note.id] = note
        for evicted in self._use.use(note.id, entry.size_bytes):
            self._hot.pop(evicted, None)

    def drop(self, note: str) -> None:
        """Forgets a note; one that is not there is no error."""
        entry = self._entries.pop(note, None)
        if entry is not None:
            self.bytes -= entry.size_bytes
        self._words.remove(note)
        self._hot.pop(note, None)
        self._use.remove(note)
        self.unembedded.discard(note)

    def expired(self, now_ms: int) -> list[str]:
        """The notes whose time is over."""
        return [
            note for note, entry in self._entries.items() if entry.expires_ms is not None and entry.expires_ms <= now_ms
        ]

    # Questions

    def entry(self, note: str, now_ms: int) -> Entry:
        """What is known of a note.

        Raises:
            ResourceNotFound: there is none of that id, or its time is over.
        """
        entry = self._entries.get(note)
        if entry is None or (entry.expires_ms is not None and entry.expires_ms <= now_ms):
            raise ResourceNotFound(f"{self._name} has no note {note}", field="memory_id")
        return entry

    def find(self, note: str) -> Entry | None:
        """What is known of a note, expired or not."""
        return self._entries.get(note)

    def hot(self, note: str) -> Note | None:
        """A note's content if it is in memory; that is a use of it."""
        found = self._hot.get(note)
        if found is not None:
            self._use.use(note, self._entries[note].size_bytes)
        return found

    def peek(self, note: str) -> Note | None:
        """A note's content if it is in memory, without counting as a use."""
        return self._hot.get(note)

    def notes(self) -> list[str]:
        """The ids of all notes."""
        return list(self._entries)

    def wanting_model(self) -> list[str]:
        """The notes the model has still to work on."""
        return [note for note, entry in self._entries.items() if entry.wants_model]

    def by_words(self, query: str, wanted: Filter, limit: int, now_ms: int) -> list[tuple[str, float]]:
        """The notes whose words fit best."""
        return self._words.search(query, self.taking(wanted, now_ms), limit)

    def taking(self, wanted: Filter, now_ms: int) -> Callable[[str], bool]:
        """A test of whether a note is there and meant."""

        def takes(note: str) -> bool:
            entry = self._entries.get(note)
            return entry is not None and wanted.takes(entry, now_ms)

        return takes

    def meant(self, wanted: Filter, now_ms: int) -> list[str]:
        """All notes that are meant."""
        return [note for note, entry in self._entries.items() if wanted.takes(entry, now_ms)]

    def page(self, wanted: Filter, limit: int, cursor: str | None, now_ms: int) -> tuple[Sequence[str], str | None]:
        """The newest notes after a cursor, and the cursor that goes on; None at the end."""
        place = _place(cursor)
        ordered: Iterable[tuple[int, str]] = sorted(
            (-entry.created_ms, note) for note, entry in self._entries.items() if wanted.takes(entry, now_ms)
        )
        left = [key for key in ordered if place is None or key > place]
        chosen = left[:limit]
        following = f"{-chosen[-1][0]}.{chosen[-1][1]}" if len(left) > limit else None
        return [note for _, note in chosen], following

    @property
    def _name(self) -> str:
        return f"the {self.owner.kind} {self.owner.name}"


def _place(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    created, _, note = cursor.partition(".")
    # A cursor from elsewhere leads to the beginning of time: an empty page, not an error.
    return (-int(created), note) if created.isascii() and created.isdigit() and len(created) <= 16 else (1, "")
