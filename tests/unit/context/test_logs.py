"""What is written of a context is what is read, byte for byte."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_context.core.head import Head, Snapshot, parse_head, parse_snapshot
from aios_context.core.history import Change, Limits, append, at, fork, grant, pin, restore
from aios_context.core.record import Message, Record, chained, parse
from aios_context.core.segments import SEGMENT_BYTES, TAIL_BYTES, is_whole, lines_of, spill
from aios_context.core.view import all_turns
from aios_proto.errors import QuotaExhausted, ResourceConflict, ResourceNotFound

LIMITS = Limits(1 << 30, 100_000)

texts = st.text(st.characters(codec="utf-8"), max_size=200)
turns = st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(("system", "user")), texts)
appends = st.lists(st.tuples(st.lists(turns, min_size=1, max_size=4), st.booleans()), min_size=1, max_size=12)


def empty(name: str = "talk") -> Head:
    return Head("acme", "alice", name, 0, "truncate", "made", 1, 1)


def grown(steps: Sequence[tuple[Sequence[Message], bool]]) -> tuple[Head, dict[str, bytes]]:
    """A context after these appends, and its segments."""
    head, segments = empty(), dict[str, bytes]()
    for number, (messages, pinned) in enumerate(steps):
        head, more = spill(append(head, Change(f"call-{number}", number), messages, LIMITS, pinned=pinned))
        segments |= more
    return head, segments


def lines(head: Head, segments: dict[str, bytes]) -> list[bytes]:
    return [line for ref in head.segments for line in lines_of(segments[ref.key])] + list(head.tail)


@settings(deadline=None, max_examples=40)
@given(appends)
def test_a_context_read_back_is_the_one_written(steps: list[tuple[list[Message], bool]]) -> None:
    head, segments = grown(steps)
    assert parse_head(head.to_bytes()) == head
    assert parse_snapshot(Snapshot("s", head, 7).to_bytes()) == Snapshot("s", head, 7)
    read = lines(head, segments)
    assert chained("", read) == head.digest
    assert sum(len(line) + 1 for line in read) == head.size_bytes
    shown = all_turns(map(parse, read))
    assert [turn.message for turn in shown] == [message for messages, _ in steps for message in messages]
    assert [turn.pinned for turn in shown] == [pinned for messages, pinned in steps for _ in messages]


@settings(deadline=None, max_examples=30)
@given(appends, st.data())
def test_a_fork_at_a_version_has_the_past_and_shares_it(
    steps: list[tuple[list[Message], bool]], data: st.DataObject
) -> None:
    big: list[tuple[list[Message], bool]] = [
        ([{"role": "user", "content": "x" * (TAIL_BYTES // 2)}], False),
        *steps,
        *steps,
    ]
    head, segments = grown(big)
    version = data.draw(st.integers(1, head.version))
    forked = fork(head, Change("fork", 9), empty("other"), lines(head, segments), version)
    before, _ = grown(big[:version])
    assert (forked.version, forked.turns, forked.size_bytes, forked.digest) == (
        before.version,
        before.turns,
        before.size_bytes,
        before.digest,
    )
    assert chained("", lines(forked, segments)) == forked.digest
    assert {ref.key for ref in forked.segments} <= {ref.key for ref in head.segments}


def test_large_turns_leave_the_head_and_no_piece_grows_without_bound() -> None:
    steps: list[tuple[list[Message], bool]] = [([{"role": "user", "content": "y" * 100_000}] * 9, False)]
    head, segments = grown(steps)
    assert not head.tail
    assert len(head.to_bytes()) < 4096
    assert all(len(value) <= SEGMENT_BYTES for value in segments.values())
    assert all(is_whole(key, value) for key, value in segments.items())
    assert not is_whole(head.segments[0].key, b"something else")


def test_the_same_append_again_is_recognised() -> None:
    head, _ = grown([([{"role": "user", "content": "a"}], False), ([{"role": "user", "content": "b"}], False)])
    first = head.recall("call-0")
    assert first is not None
    assert (first.before, first.version, first.turns) == (0, 1, 1)
    assert head.recall("call-9") is None


def test_an_append_to_another_version_than_expected_is_refused() -> None:
    head, _ = grown([([{"role": "user", "content": "a"}], False)])
    with pytest.raises(ResourceConflict) as caught:
        append(head, Change("c", 2), [{"role": "user", "content": "b"}], LIMITS, expect_version=7)
    assert caught.value.field == "expect_version"


@pytest.mark.parametrize("limits", [Limits(60, 100), Limits(1000, 2)])
def test_a_full_context_says_so_and_stays_as_it_was(limits: Limits) -> None:
    head, _ = grown([([{"role": "user", "content": "a"}], False)])
    with pytest.raises(QuotaExhausted) as caught:
        append(head, Change("c", 2), [{"role": "user", "content": "b"}] * 2, limits)
    assert caught.value.field == "messages"
    assert not caught.value.retryable


def test_a_restored_context_goes_on_counting_and_has_a_gap_where_it_was_taken_back() -> None:
    head, segments = grown([([{"role": "user", "content": str(n)}], False) for n in range(3)])
    later, _ = spill(append(head, Change("d", 9), [{"role": "user", "content": "later"}], LIMITS))
    back = restore(Snapshot("s", head), Change("r", 10), later, empty())
    assert back.digest == head.digest
    assert back.version == later.version + 1
    for lost in (4,):
        with pytest.raises(ResourceNotFound) as caught:
            at(back, lines(back, segments), lost)
        assert caught.value.field == "at_version"
    assert at(back, lines(back, segments), 2).turns == 2
    assert at(back, lines(back, segments), back.version).digest == head.digest


def test_a_pin_names_a_turn_that_exists() -> None:
    head, _ = grown([([{"role": "user", "content": "a"}], False)])
    with pytest.raises(ResourceNotFound) as caught:
        pin(head, Change("p", 2), 1, LIMITS, pinned=True)
    assert caught.value.field == "turn"
    pinned = pin(head, Change("p", 2), 0, LIMITS, pinned=True)
    assert [turn.pinned for turn in all_turns(map(parse, pinned.tail))] == [True]


def test_readers_are_bounded_and_a_second_grant_changes_nothing() -> None:
    head = grant(grant(empty(), Change("1", 1), "bob", revoke=False), Change("2", 1), "bob", revoke=False)
    assert head.readers == ("bob",)
    assert grant(head, Change("3", 1), "bob", revoke=True).readers == ()
    for number in range(63):
        head = grant(head, Change(str(number), 1), f"agent-{number}", revoke=False)
    with pytest.raises(QuotaExhausted, match="64 readers"):
        grant(head, Change("x", 1), "one-more", revoke=False)


@pytest.mark.parametrize("line", [b"[]", b"{}", b"1", b'{"v":1,"s":[1]}', b"not json"])
def test_a_damaged_line_is_an_error_and_not_an_empty_turn(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"record|JSON|unexpected|expected"):
        parse(line)


@pytest.mark.parametrize("value", [b"", b"{}", b"[]\n{}", b'{"tenant":1}'])
def test_a_damaged_head_is_an_error(value: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - orjson's and ours
        parse_head(value)
    with pytest.raises(ValueError):  # noqa: PT011
        parse_snapshot(value)


def test_a_record_of_each_kind_survives_its_line() -> None:
    message: Message = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
    for record in (
        Record(3, message),
        Record(3, message, pinned=True),
        Record(4, message, summary_of=(1, 2)),
        Record(5, pins=(2, False)),
    ):
        assert parse(record.line()) == record
