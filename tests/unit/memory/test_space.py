"""One owner's notes against a model of them: quota, expiry, eviction and return, search, pages (a state machine)."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from aios_memory.core.note import Note, Owner, note_id, tag_token
from aios_memory.core.sharing import Sharing, check
from aios_memory.core.space import Filter, Limits, Space
from aios_memory.core.words import words_of
from aios_proto.errors import AccessDenied, InternalError, QuotaExhausted, ResourceNotFound

OWNER = Owner("acme", "agent", "alice")
LIMITS = Limits(items=12, bytes=4000, hot_bytes=900, k=2)
WORDS = st.lists(st.sampled_from(["apple", "pear", "zebra", "tax", "sun"]), min_size=1, max_size=20).map(" ".join)
TAGS = st.frozensets(st.sampled_from(["x", "y"]))


class NotesMachine(RuleBasedStateMachine):
    """The store is a dict; the space must never say anything else than it."""

    notes = Bundle("notes")

    def __init__(self) -> None:
        super().__init__()
        self.space = Space(OWNER, LIMITS)
        self.store: dict[str, tuple[Note, int]] = {}
        self.now = 1000
        self.revision = 0
        self.made = 0

    def write(self, note: Note, known: int) -> None:
        size = len(note.encoded())
        old = len(self.store[note.id][0].encoded()) if note.id in self.store else 0
        fits = sum(len(other.encoded()) for other, _ in self.store.values()) + max(0, size - old) <= LIMITS.bytes
        fits = (fits or size <= old) and len(self.store) + known <= LIMITS.items
        try:
            self.space.reserve(known, size - old)
        except QuotaExhausted:
            assert not fits
            return
        assert fits
        self.revision += 1
        self.store[note.id] = (note, self.revision)
        self.space.put(note, self.revision, size)
        self.space.release(known, size - old)

    @rule(target=notes, content=WORDS, tags=TAGS, ttl=st.none() | st.integers(1, 50))
    def add(self, content: str, tags: frozenset[str], ttl: int | None) -> str:
        self.made += 1
        name = note_id("acme", "alice", str(self.made))
        expires = None if ttl is None else self.now + ttl
        self.write(Note(name, content, tuple(sorted(tags)), {}, "alice", self.now, self.now, expires), 1)
        return name

    @rule(name=notes, content=WORDS, tags=TAGS)
    def update(self, name: str, content: str, tags: frozenset[str]) -> None:
        if name in self.store:
            note = self.store[name][0].changed("call", self.now, content=content, tags=tuple(sorted(tags)))
            self.write(note, 0)

    @rule(name=consumes(notes))
    def remove(self, name: str) -> None:
        self.store.pop(name, None)
        self.space.drop(name)

    @rule(name=notes)
    def read(self, name: str) -> None:
        found = self.store.get(name)
        if found is None or (found[0].expires_ms is not None and found[0].expires_ms <= self.now):
            with pytest.raises(ResourceNotFound):
                self.space.entry(name, self.now)
            return
        self.space.entry(name, self.now)
        hot = self.space.hot(name)
        if hot is None:  # it was evicted: it comes from the store, and is in memory again if it fits at all
            self.space.warm(*found)
        else:
            assert hot == found[0]

    @rule(name=notes)
    def late_news_of_an_older_revision(self, name: str) -> None:
        if name in self.store:
            note, revision = self.store[name]
            self.space.put(replace(note, content="stale"), revision - 1, 10)
            self.space.warm(replace(note, content="stale"), revision - 1)

    @rule(by=st.integers(1, 30))
    def time_passes(self, by: int) -> None:
        self.now += by
        gone = {name for name, (note, _) in self.store.items() if note.expires_ms and note.expires_ms <= self.now}
        assert set(self.space.expired(self.now)) == gone

    @rule(query=WORDS, tags=TAGS, after=st.none() | st.integers(900, 1200))
    def search(self, query: str, tags: frozenset[str], after: int | None) -> None:
        wanted = Filter(tuple(tags), after, None)
        found = {name for name, _ in self.space.by_words(query, wanted, 100, self.now)}
        assert found == {
            name
            for name, note in self.living().items()
            if set(words_of(query)) & set(words_of(note.content))
            and tags <= set(note.tags)
            and (after is None or note.created_ms >= after)
        }

    @rule(limit=st.integers(1, 5))
    def all_pages(self, limit: int) -> None:
        seen: list[str] = []
        cursor = None
        while True:
            names, cursor = self.space.page(Filter(), limit, cursor, self.now)
            seen += names
            if cursor is None:
                break
        assert len(seen) == len(set(seen))
        living = self.living()
        assert seen == sorted(living, key=lambda name: (-living[name].created_ms, name))

    def living(self) -> dict[str, Note]:
        return {
            name: note
            for name, (note, _) in self.store.items()
            if note.expires_ms is None or note.expires_ms > self.now
        }

    @invariant()
    def what_is_counted_is_what_is_stored(self) -> None:
        assert len(self.space) == len(self.store)
        assert self.space.bytes == sum(len(note.encoded()) for note, _ in self.store.values())
        assert self.space.unembedded <= set(self.store)

    @invariant()
    def the_hot_tier_is_no_larger_than_it_may_be_and_never_wrong(self) -> None:
        hot = {name: self.space.peek(name) for name in self.store}
        assert sum(len(note.encoded()) for note in hot.values() if note is not None) <= LIMITS.hot_bytes
        for name, note in hot.items():
            assert note is None or note == self.store[name][0]


TestNotes = NotesMachine.TestCase
TestNotes.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_note_is_the_same_after_storing() -> None:
    note = Note(
        "m1",
        "x\u0000🙂",
        ("a", "b"),
        {"k": [1, None, {"n": 1.5}]},
        "alice",
        1,
        2,
        3,
        ("k",),
        "c",
        ("m2",),
        True,
        ("c1",),
    )
    assert Note.decoded(note.encoded()) == note


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"v": 99}', b'{"v": 1}'])
def test_what_is_no_note_is_an_error(data: bytes) -> None:
    with pytest.raises(InternalError):
        Note.decoded(data)
    with pytest.raises(InternalError):
        Sharing.decoded(data)


def test_ids_come_from_the_whole_identity_of_a_call() -> None:
    ids = {
        note_id(*parts)
        for parts in (("a", "b", "c"), ("a", "b", "d"), ("a", "x", "c"), ("y", "b", "c"), ("ab", "", "c"))
    }
    assert len(ids) == 5
    assert note_id("a", "b", "c") == note_id("a", "b", "c")


def test_a_tag_is_not_readable_and_not_comparable_between_tenants() -> None:
    assert tag_token("a", "secret") == tag_token("a", "secret")
    assert len({tag_token("a", "secret"), tag_token("b", "secret"), tag_token("a", "other")}) == 3
    assert "secret" not in tag_token("a", "secret")


def test_a_writer_may_read_and_a_reader_not_write() -> None:
    pool = Owner("acme", "pool", "team")
    sharing = Sharing("alice").granted("bob", "write").granted("carol", "read")
    for agent, right in (("alice", "write"), ("bob", "read"), ("bob", "write"), ("carol", "read")):
        check(pool, sharing, agent, right)  # type: ignore[arg-type]
    for agent, right in (("carol", "write"), ("dave", "read")):
        with pytest.raises(AccessDenied):
            check(pool, sharing, agent, right)  # type: ignore[arg-type]
    assert not sharing.revoked("bob", "read").allows("bob", "write")
    assert not sharing.revoked("bob", "write").allows("bob", "write")
