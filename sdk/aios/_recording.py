"""Spans of our own exporter: cheap to begin, handed to OpenTelemetry's batch processor when they end.

Beginning a span with the SDK's tracer and adding to it costs a tenth of a millisecond and more before a call can leave.
Where the application has set up OpenTelemetry itself, its tracer is used all the same.
"""

import random
import time
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util.types import AnyValue

_SCOPE = InstrumentationScope("aios")
_TRACE_ID_BITS = 128
_SPAN_ID_BITS = 64


class RecordedSpan(trace.Span):
    """One span; one that is not sampled keeps nothing."""

    def __init__(
        self,
        recorder: "Recorder",
        name: str,
        kind: trace.SpanKind,
        context: trace.SpanContext,
        parent: trace.SpanContext | None,
        attributes: Mapping[str, AnyValue],
    ) -> None:
        self._recorder = recorder
        self._name = name
        self._kind = kind
        self._context = context
        self._parent = parent
        self._attributes: dict[str, AnyValue] = dict(attributes)
        self._events: list[Event] = []
        self._status = trace.Status(trace.StatusCode.UNSET)
        self._begun_ns = time.time_ns()
        self._recording = context.trace_flags.sampled

    def get_span_context(self) -> trace.SpanContext:
        """Its ids."""
        return self._context

    def is_recording(self) -> bool:
        """Whether it is sampled and has not ended."""
        return self._recording

    def set_attribute(self, key: str, value: AnyValue) -> None:
        """Adds one attribute."""
        self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AnyValue]) -> None:
        """Adds attributes."""
        self._attributes.update(attributes)

    def add_event(
        self, name: str, attributes: Mapping[str, AnyValue] | None = None, timestamp: int | None = None
    ) -> None:
        """Marks a moment."""
        self._events.append(Event(name, attributes, timestamp or time.time_ns()))

    def update_name(self, name: str) -> None:
        """Renames it."""
        self._name = name

    def set_status(self, status: trace.Status | trace.StatusCode, description: str | None = None) -> None:
        """Says how it ended."""
        self._status = status if isinstance(status, trace.Status) else trace.Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, AnyValue] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Marks an exception, as OpenTelemetry's conventions have it."""
        facts = {"exception.type": type(exception).__name__, "exception.message": str(exception)}
        self.add_event("exception", {**facts, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """Hands it over; a second end does nothing."""
        if not self._recording:
            return
        self._recording = False
        self._recorder.processor.on_end(
            ReadableSpan(
                name=self._name,
                context=self._context,
                parent=self._parent,
                resource=self._recorder.resource,
                attributes=self._attributes,
                events=self._events,
                kind=self._kind,
                status=self._status,
                start_time=self._begun_ns,
                end_time=end_time or time.time_ns(),
                instrumentation_scope=_SCOPE,
            )
        )


class Recorder:
    """Begins spans and samples their traces.

    Args:
        processor: takes finished spans.
        resource: who records.
        ratio: share of new traces that are sampled; a trace that was begun before keeps its decision.
    """

    def __init__(self, processor: SpanProcessor, resource: Resource, ratio: float) -> None:
        self.processor = processor
        self.resource = resource
        self._ratio = ratio
        self._random = random.Random()  # noqa: S311 (ids, not secrets)

    def start_span(self, name: str, kind: trace.SpanKind, attributes: Mapping[str, AnyValue]) -> RecordedSpan:
        """Begins a span below the current one, or a new trace."""
        current = trace.get_current_span().get_span_context()
        parent = current if current.is_valid else None
        if parent is None:
            trace_id = self._random.getrandbits(_TRACE_ID_BITS) or 1
            sampled = self._random.random() < self._ratio
        else:
            trace_id, sampled = parent.trace_id, parent.trace_flags.sampled
        context = trace.SpanContext(
            trace_id,
            self._random.getrandbits(_SPAN_ID_BITS) or 1,
            is_remote=False,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED if sampled else trace.TraceFlags.DEFAULT),
            trace_state=None if parent is None else parent.trace_state,
        )
        return RecordedSpan(self, name, kind, context, parent, attributes)
