"""How one trace follows a call through the services: W3C trace context in message headers, one span a hop.

FastStream's own telemetry middleware triples the CPU of a hop, puts agents' names into span names and begins a new
sampled trace for every reply of an unsampled call, so hops make their spans here, and a call that is not sampled
costs one look at its `traceparent`. Starting a span with the SDK's tracer costs 60 us before the message can go on;
here a hop draws its id, sends the message on, and hands the finished span to the SDK's batch exporter when it ends.
"""

import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from aios_kit.settings import ServiceSettings
from aios_proto import telemetry
from aios_proto.errors import AiosError

Attributes = Mapping[str, str | int | float | bool]

# The default of 2 048 drops spans past 4 000 a second (measured).
_QUEUE_SPANS = 32_768
_EXPORT_DELAY_MS = 500

_MAX_TRACEPARENT = 128
_MAX_TRACESTATE = 512
# Ids of zeros mean "none"; version ff is forbidden; only versions after 00 may go on after the flags.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?"
)


def parse_traceparent(traceparent: str | None) -> SpanContext | None:
    """The remote parent a W3C `traceparent` names; None where there is none or it is malformed.

    Source: W3C Trace Context, version 00.
    """
    found = _match(traceparent)
    if found is None:
        return None
    _, trace_hex, span_hex, flags_hex, _ = found.groups()
    flags = TraceFlags(int(flags_hex, 16))
    return SpanContext(int(trace_hex, 16), int(span_hex, 16), is_remote=True, trace_flags=flags)


def trace_headers(traceparent: str | None, tracestate: str | None) -> tuple[str | None, str | None]:
    """What of a caller's trace context may go on: a well-formed `traceparent`, and beside it a short `tracestate`.

    W3C lets a hop drop what is malformed or, of `tracestate`, longer than 512 characters; a caller must not be able to
    make the kernel's messages larger than the bus carries.
    """
    if _match(traceparent) is None:
        return None, None
    return traceparent, tracestate if tracestate and len(tracestate) <= _MAX_TRACESTATE else None


def _match(traceparent: str | None) -> re.Match[str] | None:
    if traceparent is None or len(traceparent) > _MAX_TRACEPARENT:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    return None if found is not None and found[1] == "00" and found[5] is not None else found


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id in a `traceparent`, 32 hex digits; None where there is none."""
    context = parse_traceparent(traceparent)
    return None if context is None else f"{context.trace_id:032x}"


@dataclass(slots=True)
class _Recording:
    """A span that has begun."""

    exporter: "_Exporter"
    name: str
    kind: SpanKind
    context: SpanContext
    parent: SpanContext | None
    start_ns: int
    attributes: dict[str, str | int | float | bool]
    events: list[Event] = field(default_factory=list)


@dataclass(slots=True)
class Hop:
    """One service's span of one call, or its absence.

    Attributes:
        traceparent: what the next hop gets as its parent.
    """

    traceparent: str | None
    _recording: _Recording | None = None

    @property
    def recording(self) -> bool:
        """Whether attributes are worth computing."""
        return self._recording is not None

    @property
    def trace_id(self) -> str | None:
        """The trace this hop belongs to, recorded or not."""
        return trace_id_of(self.traceparent)

    def set(self, attributes: Attributes) -> None:
        """Adds attributes to the span."""
        if self._recording is not None:
            self._recording.attributes.update(attributes)

    def event(self, name: str, time_ns: int | None = None) -> None:
        """Marks a moment (Unix nanoseconds; None is now)."""
        if self._recording is not None:
            self._recording.events.append(Event(name, timestamp=time_ns or time.time_ns()))

    def end(self, error: AiosError | None = None, time_ns: int | None = None) -> None:
        """Ends the span, with the error that ended the hop if one did; a second end does nothing."""
        recording, self._recording = self._recording, None
        if recording is None:
            return
        status = Status(StatusCode.UNSET)
        if error is not None:
            recording.attributes[telemetry.ERROR_TYPE] = error.code
            status = Status(StatusCode.ERROR, error.message)
        recording.exporter.take(recording, status, time_ns or time.time_ns())


class _Exporter:
    """Hands finished spans to the SDK's batch processor, which sends them from a thread of its own."""

    def __init__(self, service: str, settings: ServiceSettings, endpoint: str) -> None:
        self._resource = Resource.create({"service.name": f"aios-{service}", "service.instance.id": settings.instance})
        self._scope = InstrumentationScope("aios")
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
        self._processor = BatchSpanProcessor(
            exporter, max_queue_size=_QUEUE_SPANS, schedule_delay_millis=_EXPORT_DELAY_MS, max_export_batch_size=2048
        )

    def take(self, recording: _Recording, status: Status, end_ns: int) -> None:
        """Takes one finished span."""
        self._processor.on_end(
            ReadableSpan(
                name=recording.name,
                context=recording.context,
                parent=recording.parent,
                resource=self._resource,
                attributes=recording.attributes,
                events=recording.events,
                kind=recording.kind,
                status=status,
                start_time=recording.start_ns,
                end_time=end_ns,
                instrumentation_scope=self._scope,
            )
        )

    def close(self, timeout_s: float) -> None:
        self._processor.force_flush(int(timeout_s * 1000))
        self._processor.shutdown()  # type: ignore[no-untyped-call]


class Tracing:
    """Makes the spans of one service and exports them in the background; off without an OTLP endpoint."""

    def __init__(self, service: str, settings: ServiceSettings) -> None:
        endpoint = settings.otlp_endpoint
        self._exporter = None if endpoint is None else _Exporter(service, settings, endpoint)
        self._sample_ratio = settings.trace_sample_ratio
        self._random = random.Random()  # noqa: S311 (ids, not secrets)

    def hop(
        self,
        name: str,
        traceparent: str | None,
        *,
        kind: SpanKind = SpanKind.CONSUMER,
        attributes: Attributes | None = None,
        start_ns: int | None = None,
    ) -> Hop:
        """Begins the span of one hop as a child of `traceparent`; without a parent, of a new trace.

        Sampling follows the parent; of new traces the configured share is recorded.

        Args:
            name: bounded: an operation, never an id.
            traceparent: W3C context of the hop before.
            kind: its role towards the hop before.
            attributes: ids and sizes.
            start_ns: Unix nanoseconds; None is now.
        """
        parent = parse_traceparent(traceparent)
        if self._exporter is None or (parent is not None and not parent.trace_flags.sampled):
            return Hop(None if parent is None else traceparent)
        trace_id = self._random.getrandbits(128) or 1 if parent is None else parent.trace_id
        sampled = parent is not None or self._random.random() < self._sample_ratio
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        context = SpanContext(trace_id, self._random.getrandbits(64) or 1, is_remote=False, trace_flags=flags)
        child = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(flags):02x}"
        if not sampled:
            return Hop(child)
        recording = _Recording(
            self._exporter, name, kind, context, parent, start_ns or time.time_ns(), dict(attributes or {})
        )
        return Hop(child, recording)

    def close(self, timeout_s: float = 5) -> None:
        """Sends what is buffered; blocks up to `timeout_s`, so call it off the loop."""
        if self._exporter is not None:
            self._exporter.close(timeout_s)
