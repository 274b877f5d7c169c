"""The span file: found by call, read while written, never larger than its bound."""

import sqlite3
from pathlib import Path

import pytest

from aios_proto.telemetry import SYSCALL_ID
from aios_stack.spans.record import SpanEvent, SpanRecord, Status
from aios_stack.spans.store import SpanReader, SpanWriter


def span(trace: int, number: int, *, call: str | None = None, padding: int = 0) -> SpanRecord:
    return SpanRecord(
        trace_id=f"{trace:032x}",
        span_id=f"{number:016x}",
        parent_id=None,
        service="aios-access",
        name="access",
        kind=5,
        start_ns=1_000 + number,
        end_ns=2_000 + number,
        status=Status.ERROR,
        status_message="no",
        attributes={**({SYSCALL_ID: call} if call else {}), "pad": "x" * padding, "list": ("a", 1, True)},
        events=(SpanEvent("first_token", 1_500, {"n": 1.5}),),
    )


def test_a_span_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    writer = SpanWriter(tmp_path / "spans.db", 1 << 20)
    stored = span(7, 1, call="call-1")
    assert writer.add([stored]) == 1
    with SpanReader(tmp_path / "spans.db") as reader:
        assert reader.spans_of(stored.trace_id) == [stored]
        assert reader.traces_of("call-1") == [stored.trace_id]
        assert reader.has_trace(stored.trace_id)
        assert not reader.has_trace("0" * 32)
        assert reader.traces_of("unknown") == []
    writer.close()


def test_a_span_exported_twice_is_kept_once(tmp_path: Path) -> None:
    writer = SpanWriter(tmp_path / "spans.db", 1 << 20)
    assert writer.add([span(1, 1), span(1, 1)]) == 1
    assert writer.add([span(1, 1)]) == 0
    writer.close()


def test_the_last_call_is_the_one_started_last_even_if_its_spans_came_first(tmp_path: Path) -> None:
    writer = SpanWriter(tmp_path / "spans.db", 1 << 20)
    with SpanReader(tmp_path / "spans.db") as reader:
        assert reader.last_syscall() is None
        mark = reader.change_mark()
        writer.add([span(2, 9, call="late"), span(1, 3, call="early")])
        assert reader.last_syscall() == "late"
        assert reader.change_mark() != mark
    writer.close()


def test_the_file_stays_under_its_bound_and_keeps_the_newest_traces_whole(tmp_path: Path) -> None:
    bound = 1 << 20
    writer = SpanWriter(tmp_path / "spans.db", bound)
    for trace in range(1, 301):
        writer.add([span(trace, trace * 10 + n, call=f"call-{trace}", padding=2_000) for n in range(4)])
        assert writer.used_bytes() <= bound
    with SpanReader(tmp_path / "spans.db") as reader:
        assert reader.traces_of("call-1") == []
        assert reader.last_syscall() == "call-300"
        counts = {len(reader.spans_of(f"{trace:032x}")) for trace in range(1, 301)}
        assert counts == {0, 4}
    writer.close()
    assert (tmp_path / "spans.db").stat().st_size < 2 * bound


def test_reading_a_store_that_was_never_started_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SpanReader(tmp_path / "none.db")


def test_a_reader_cannot_change_the_file(tmp_path: Path) -> None:
    SpanWriter(tmp_path / "spans.db", 1 << 20).close()
    with SpanReader(tmp_path / "spans.db") as reader, pytest.raises(sqlite3.OperationalError):
        reader._connection.execute("DELETE FROM spans")
