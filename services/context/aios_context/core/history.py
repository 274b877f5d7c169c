"""What each operation makes of a context: a new head from the old one, or the error that says why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aios_context.core.head import Head, Remembered, Snapshot
from aios_context.core.record import EMPTY_DIGEST, Message, Record, chained, parse
from aios_proto.errors import QuotaExhausted, ResourceConflict, ResourceNotFound
from aios_proto.messages.context import MAX_READERS

REMEMBERED_CALLS = 64
"""Calls a context can answer again. Older ones have been answered long ago."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large one context may become.

    Attributes:
        size_bytes: of its log.
        turns: in its log.
    """

    size_bytes: int
    turns: int


@dataclass(frozen=True, slots=True)
class Change:
    """The call that changes a context.

    Attributes:
        call_id: its id; the same id never changes a context twice.
        now_ms: Unix time.
    """

    call_id: str
    now_ms: int


def append(
    head: Head,
    change: Change,
    messages: Sequence[Message],
    limits: Limits,
    *,
    pinned: bool = False,
    expect_version: int | None = None,
) -> Head:
    """Turns at the end.

    Raises:
        ResourceConflict: the version is not the expected one.
        QuotaExhausted: the context would become larger than it may.
    """
    if expect_version is not None and expect_version != head.version:
        raise ResourceConflict(
            f"the context is at version {head.version}, not {expect_version}", field="expect_version"
        )
    version = head.version + 1
    return _written(head, change, [Record(version, message, pinned=pinned) for message in messages], limits)


def pin(head: Head, change: Change, turn: int, limits: Limits, *, pinned: bool) -> Head:
    """Keeps a turn in every window from now on, or no longer.

    Raises:
        ResourceNotFound: there is no turn of that number.
        QuotaExhausted: the log is full.
    """
    if turn >= head.turns:
        raise ResourceNotFound(f"the context has {head.turns} turns, counted from 0", field="turn")
    return _written(head, change, [Record(head.version + 1, pins=(turn, pinned))], limits)


def summarise(
    head: Head,
    change: Change,
    message: Message,
    summary_of: tuple[int, int],
    limits: Limits,
    *,
    rewrites: int,
    figures: Mapping[str, int],
) -> Head:
    """A turn that stands for others from now on.

    Args:
        rewrites: of the context as it was when the summary was begun.
        figures: what the summary cost and saved, for when the call comes again.

    Raises:
        ResourceConflict: the turns were summarised or restored meanwhile.
        QuotaExhausted: the log is full.
    """
    if head.rewrites != rewrites:
        raise ResourceConflict("the context was compressed or restored at the same time", field="context")
    record = Record(head.version + 1, message, summary_of=summary_of)
    return replace(_written(head, change, [record], limits, figures), rewrites=rewrites + 1)


def grant(head: Head, change: Change, agent: str, *, revoke: bool) -> Head:
    """Lets another agent read, or no longer.

    Raises:
        QuotaExhausted: it has as many readers as it may.
    """
    readers = tuple(name for name in head.readers if name != agent)
    if not revoke:
        readers = tuple(sorted((*readers, agent)))
    if len(readers) > MAX_READERS:
        raise QuotaExhausted(f"a context may have {MAX_READERS} readers", field="agent", retryable=False)
    return _remembering(replace(head, version=head.version + 1, readers=readers), head.version, change)


def close(head: Head, change: Change) -> Head:
    """Gone: what is left answers the same calls again for a while."""
    closed = replace(head, closed=True, segments=(), tail=(), gaps=())
    return _remembering(closed, head.version, change)


def fork(head: Head, change: Change, new: Head, lines: Sequence[bytes], at_version: int | None) -> Head:
    """A context that shares the past with another.

    Args:
        head: the one that is forked.
        change: the call.
        new: an empty context with the name and owner of the fork.
        lines: the whole log of `head`.
        at_version: where the past ends; None is now.

    Raises:
        ResourceNotFound: the context has no such version.
    """
    past = head if at_version is None else at(head, lines, at_version)
    shared = replace(
        new,
        version=past.version,
        policy=past.policy,
        window_tokens=past.window_tokens,
        model=past.model,
        ttl_s=past.ttl_s,
        turns=past.turns,
        size_bytes=past.size_bytes,
        digest=past.digest,
        rewrites=past.rewrites,
        segments=past.segments,
        tail=past.tail,
        gaps=past.gaps,
    )
    return _remembering(shared, past.version, change)


def restore(snapshot: Snapshot, change: Change, onto: Head | None, new: Head) -> Head:
    """A context as a snapshot has it.

    Args:
        onto: the living context it replaces, which then goes on counting its versions.
        new: an empty context with the name and owner wanted.
    """
    past = snapshot.head
    made = replace(past, name=new.name, created_by=new.created_by, created_ms=new.created_ms, readers=())
    made = replace(made, changed_ms=change.now_ms, remembered=new.remembered)
    if onto is None:
        return _remembering(made, 0, change)
    version = max(onto.version, past.version) + 1
    gaps = (*past.gaps, (past.version + 1, version - 1)) if version > past.version + 1 else past.gaps
    made = replace(
        made,
        version=version,
        gaps=gaps,
        readers=onto.readers,
        rewrites=max(onto.rewrites, past.rewrites) + 1,
        remembered=onto.remembered,
        created_by=onto.created_by,
        created_ms=onto.created_ms,
    )
    return _remembering(made, onto.version, change)


def at(head: Head, lines: Sequence[bytes], version: int) -> Head:
    """The context as it was at a version; segments that belong to it whole stay shared.

    Raises:
        ResourceNotFound: the context has no such version.
    """
    if version > head.version or any(first <= version <= last for first, last in head.gaps):
        raise ResourceNotFound(f"the context has no version {version}; it is at {head.version}", field="at_version")
    records = [parse(line) for line in lines]
    count = next((number for number, record in enumerate(records) if record.version > version), len(lines))
    kept = list(lines[:count])
    segments = tuple(ref for ref in head.segments if ref.last_version <= version)
    in_segments = 0
    for ref in segments:
        in_segments += _lines_in(lines, in_segments, ref.size_bytes)
    return replace(
        head,
        version=version,
        turns=sum(record.message is not None for record in records[:count]),
        size_bytes=sum(len(line) + 1 for line in kept),
        digest=chained(EMPTY_DIGEST, kept),
        segments=segments,
        tail=tuple(kept[in_segments:]),
    )


def remember(head: Head, before: int, change: Change) -> Head:
    """The same context, which can now answer this call again."""
    return _remembering(head, before, change)


def _written(
    head: Head,
    change: Change,
    records: Sequence[Record],
    limits: Limits,
    figures: Mapping[str, int] | None = None,
) -> Head:
    lines = [record.line() for record in records]
    turns = head.turns + sum(record.message is not None for record in records)
    size = head.size_bytes + sum(len(line) + 1 for line in lines)
    if turns > limits.turns:
        raise QuotaExhausted(f"a context may have {limits.turns} turns", field="messages", retryable=False)
    if size > limits.size_bytes:
        raise QuotaExhausted(
            f"a context may have {limits.size_bytes} bytes; begin a new one, for example with a summary of this one",
            field="messages",
            retryable=False,
        )
    written = replace(
        head,
        version=head.version + 1,
        turns=turns,
        size_bytes=size,
        digest=chained(head.digest, lines),
        tail=(*head.tail, *lines),
    )
    return _remembering(written, head.version, change, figures)


def _remembering(head: Head, before: int, change: Change, figures: Mapping[str, int] | None = None) -> Head:
    call = Remembered(change.call_id, before, head.version, head.turns, head.size_bytes, head.digest, figures or {})
    remembered = (*head.remembered, call)[-REMEMBERED_CALLS:]
    return replace(head, changed_ms=change.now_ms, remembered=remembered)


def _lines_in(lines: Sequence[bytes], start: int, size: int) -> int:
    """How many lines from `start` on make up a segment of `size` bytes."""
    count, left = 0, size + 1  # the last line of a segment has no line end
    while left > 0:
        left -= len(lines[start + count]) + 1
        count += 1
    return count
