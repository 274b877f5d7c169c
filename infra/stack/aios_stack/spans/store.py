"""Where spans lie: one SQLite file, indexed by trace and by system call, bounded by dropping the oldest traces."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aios_proto.telemetry import SYSCALL_ID
from aios_stack.spans.record import AttributeValue, SpanEvent, SpanRecord, Status

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spans (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id TEXT NOT NULL,
    span_id TEXT NOT NULL,
    parent_id TEXT,
    service TEXT NOT NULL,
    name TEXT NOT NULL,
    kind INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    status TEXT NOT NULL,
    status_message TEXT NOT NULL,
    attributes TEXT NOT NULL,
    events TEXT NOT NULL,
    UNIQUE (trace_id, span_id)
);
CREATE TABLE IF NOT EXISTS syscalls (
    syscall_id TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    PRIMARY KEY (syscall_id, trace_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS syscalls_by_start ON syscalls (start_ns);
CREATE INDEX IF NOT EXISTS syscalls_by_trace ON syscalls (trace_id);
"""
_BUSY_TIMEOUT_S = 5.0
_DROP_SHARE = 10
"""One tenth of the spans go at a time, so that dropping is rare and each time short."""


class SpanWriter:
    """Adds spans. One writer a file; belongs to one thread."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Opens or creates the file.

        Args:
            path: the file; its folder must exist.
            max_bytes: above this size the oldest traces are dropped.
        """
        self._max_bytes = max_bytes
        self._connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")  # a crash may cost the last spans, never the file
        self._connection.executescript(_SCHEMA)

    def add(self, spans: Iterable[SpanRecord]) -> int:
        """Stores spans in one transaction and returns how many were new; a span sent twice is kept once."""
        rows = [_row(span) for span in spans]
        calls = {(row[11], row[0]): row[6] for row in rows if row[11] is not None}
        before = self._connection.total_changes
        with _transaction(self._connection):
            self._connection.executemany(
                "INSERT OR IGNORE INTO spans (trace_id, span_id, parent_id, service, name, kind, start_ns, end_ns, "
                "status, status_message, attributes, events) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(*row[:11], row[12]) for row in rows],
            )
            added = self._connection.total_changes - before
            self._connection.executemany(
                "INSERT INTO syscalls (syscall_id, trace_id, start_ns) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET start_ns = min(start_ns, excluded.start_ns)",
                [(syscall, trace, start) for (syscall, trace), start in calls.items()],
            )
        self._shrink()
        return added

    def close(self) -> None:
        """Writes everything back to the main file and closes it."""
        self._connection.close()

    def used_bytes(self) -> int:
        """Bytes of the file that hold data."""
        pages, free, size = (self._pragma(name) for name in ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _shrink(self) -> None:
        while self.used_bytes() > self._max_bytes:
            first, last, count = self._connection.execute("SELECT min(seq), max(seq), count(*) FROM spans").fetchone()
            if count <= 1:
                return
            until = first + (last - first) // _DROP_SHARE
            with _transaction(self._connection):
                # Whole traces go: half a trace would look like a fault of the system it describes.
                old = "SELECT DISTINCT trace_id FROM spans WHERE seq <= ?"
                self._connection.execute(f"DELETE FROM syscalls WHERE trace_id IN ({old})", (until,))  # noqa: S608
                self._connection.execute(f"DELETE FROM spans WHERE trace_id IN ({old})", (until,))  # noqa: S608


class SpanReader:
    """Reads a span file, also while a writer is at work. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            FileNotFoundError: there is no span file.
        """
        if not path.exists():
            raise FileNotFoundError(path)
        self._connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        self._connection.execute("PRAGMA query_only = ON")

    def __enter__(self) -> "SpanReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def traces_of(self, syscall_id: str) -> list[str]:
        """Trace ids of a system call, oldest first."""
        rows = self._connection.execute(
            "SELECT trace_id FROM syscalls WHERE syscall_id = ? ORDER BY start_ns", (syscall_id,)
        )
        return [row[0] for row in rows]

    def has_trace(self, trace_id: str) -> bool:
        """Whether any span of that trace is stored."""
        return self._connection.execute("SELECT 1 FROM spans WHERE trace_id = ?", (trace_id,)).fetchone() is not None

    def last_syscall(self) -> str | None:
        """Id of the system call that was started last; None where there is none."""
        row = self._connection.execute("SELECT syscall_id FROM syscalls ORDER BY start_ns DESC LIMIT 1").fetchone()
        return None if row is None else str(row[0])

    def spans_of(self, trace_id: str) -> list[SpanRecord]:
        """All stored spans of a trace, by start time."""
        rows = self._connection.execute(
            "SELECT trace_id, span_id, parent_id, service, name, kind, start_ns, end_ns, status, status_message, "
            "attributes, events FROM spans WHERE trace_id = ? ORDER BY start_ns, seq",
            (trace_id,),
        )
        return [_record(row) for row in rows]

    def change_mark(self) -> int:
        """A number that changes when another process has written."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


Row = tuple[str, str, str | None, str, str, int, int, int, str, str, str, str | None, str]


def _row(span: SpanRecord) -> Row:
    call = span.attributes.get(SYSCALL_ID)
    return (
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.service,
        span.name,
        span.kind,
        span.start_ns,
        span.end_ns,
        span.status.value,
        span.status_message,
        json.dumps(dict(span.attributes)),
        call if isinstance(call, str) else None,
        json.dumps([[event.name, event.time_ns, dict(event.attributes)] for event in span.events]),
    )


def _record(row: tuple[str, str, str | None, str, str, int, int, int, str, str, str, str]) -> SpanRecord:
    return SpanRecord(
        *row[:8],
        status=Status(row[8]),
        status_message=row[9],
        attributes=_frozen(json.loads(row[10])),
        events=tuple(
            SpanEvent(name, time_ns, _frozen(attributes)) for name, time_ns, attributes in json.loads(row[11])
        ),
    )


def _frozen(attributes: dict[str, object]) -> dict[str, AttributeValue]:
    return {key: _frozen_value(value) for key, value in attributes.items()}


def _frozen_value(value: object) -> AttributeValue:
    if isinstance(value, list):
        return tuple(_frozen_value(item) for item in value)
    assert isinstance(value, str | bool | int | float)
    return value
