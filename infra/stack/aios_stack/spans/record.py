"""What the store keeps of one span."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

AttributeValue = str | bool | int | float | tuple["AttributeValue", ...]


class Status(StrEnum):
    """How the work of a span ended, as its author said."""

    UNSET = "unset"
    OK = "ok"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """A moment inside a span; `time_ns` is Unix time in nanoseconds."""

    name: str
    time_ns: int
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One finished span.

    Attributes:
        trace_id: 32 lower-case hex digits.
        span_id: 16 lower-case hex digits.
        parent_id: the parent's span id; None for a root.
        service: the resource's `service.name`; empty where it has none.
        name: the span's name.
        kind: OTLP's number: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
        start_ns: Unix time in nanoseconds.
        end_ns: Unix time in nanoseconds.
        status: how it ended.
        status_message: why, where it failed.
        attributes: by name.
        events: in the order they were recorded.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    service: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    status: Status = Status.UNSET
    status_message: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()

    @property
    def duration_ms(self) -> float:
        """Milliseconds from start to end."""
        return (self.end_ns - self.start_ns) / 1e6
