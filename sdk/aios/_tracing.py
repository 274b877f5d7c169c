"""What is recorded of a call on the caller's side: one CLIENT span, the root of its trace or a child of the caller's.

Where the application has set up OpenTelemetry, its provider is used. Else, where OTEL_EXPORTER_OTLP_ENDPOINT is set,
one exporter of our own serves all agents of the process. Else nothing is recorded and the cost is a look at a context
variable.
"""

import asyncio
import atexit
import logging
import os
import threading
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aios._recording import Recorder
from aios_proto import headers, telemetry
from aios_proto.errors import AiosError
from aios_proto.frames import Done
from aios_proto.operations import OPERATIONS

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
SAMPLE_RATIO: Final = "AIOS_TRACE_SAMPLE_RATIO"
SERVICE_NAME: Final = "OTEL_SERVICE_NAME"

QUEUE_SPANS: Final = 20_480
EXPORT_DELAY_MS: Final = 500
EXPORT_TIMEOUT_S: Final = 3.0
FLUSH_TIMEOUT_S: Final = 5.0

_own: dict[tuple[str, str], Recorder] = {}

log: Final = logging.getLogger("aios")


def current_tracer() -> trace.Tracer | Recorder | None:
    """The tracer of the application's provider, else ours, else None."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, trace.ProxyTracerProvider):
        return provider.get_tracer("aios")
    endpoint = os.environ.get(ENDPOINT)
    if not endpoint:
        return None
    key = (endpoint, os.environ.get(SAMPLE_RATIO, "1"))
    if key not in _own:
        _own[key] = _make_recorder(ratio=float(key[1]))
    return _own[key]


def _make_recorder(ratio: float) -> Recorder:
    # Imported here because it takes long and most programs that only call need no exporter.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(timeout=EXPORT_TIMEOUT_S)
    processor = BatchSpanProcessor(exporter, max_queue_size=QUEUE_SPANS, schedule_delay_millis=EXPORT_DELAY_MS)
    atexit.register(processor.shutdown)
    resource = Resource.create({"service.name": os.environ.get(SERVICE_NAME, "aios-agent")})
    return Recorder(processor, resource, ratio)


class CallSpan:
    """The span of one call. `headers` carry its context to the kernel."""

    __slots__ = ("_first_token", "_span", "headers", "trace_id")

    def __init__(self, span: trace.Span) -> None:
        context = span.get_span_context()
        self._span = span
        self._first_token = False
        self.trace_id = f"{context.trace_id:032x}"
        self.headers = _context_headers(context)

    def accepted(self) -> None:
        """The kernel took the call."""
        self._span.add_event(telemetry.EVENT_ACCEPTED)

    def first_token(self) -> None:
        """The answer began; only the first time counts."""
        if not self._first_token:
            self._first_token = True
            self._span.add_event(telemetry.EVENT_FIRST_TOKEN)

    def done(self, done: Done) -> None:
        """The call succeeded."""
        if self._span.is_recording():
            if done.usage is not None:
                self._span.set_attribute(telemetry.GEN_AI_INPUT_TOKENS, done.usage.prompt_tokens)
                self._span.set_attribute(telemetry.GEN_AI_OUTPUT_TOKENS, done.usage.completion_tokens)
                self._span.set_attribute(telemetry.CACHED_TOKENS, done.usage.cached_tokens)
            model, reason = done.result.get("model"), done.result.get("finish_reason")
            if isinstance(model, str):
                self._span.set_attribute(telemetry.GEN_AI_RESPONSE_MODEL, model)
            if isinstance(reason, str):
                self._span.set_attribute(telemetry.GEN_AI_FINISH_REASONS, [reason])
        self._span.end()

    def failed(self, error: AiosError) -> None:
        """The call failed."""
        self._span.set_attribute(telemetry.ERROR_TYPE, error.code)
        self._span.set_status(trace.Status(trace.StatusCode.ERROR, error.message))
        self._span.end()


class Tracing:
    """Makes the spans of one agent."""

    def __init__(self, tenant: str, agent: str) -> None:
        self._tracer = current_tracer()
        self._identity = {telemetry.TENANT: tenant, telemetry.AGENT: agent}

    def start(
        self, operation: str, call_id: str, program: str | None, model: object, max_tokens: object
    ) -> CallSpan | None:
        """The span of a call that begins now, below the caller's current span; None where nothing is recorded."""
        if self._tracer is None:
            return None
        manager, _, name = operation.partition(".")
        known = (manager, name) in OPERATIONS
        attributes: dict[str, str | int] = {
            **self._identity,
            telemetry.SYSCALL_ID: call_id,
            telemetry.SYSCALL_OPERATION: operation,
        }
        if program is not None:
            attributes[telemetry.PROGRAM] = program
        span_name = operation if known else "syscall"
        if operation in _GEN_AI_OPERATIONS:
            attributes[telemetry.GEN_AI_OPERATION] = _GEN_AI_OPERATIONS[operation]
            attributes[telemetry.GEN_AI_PROVIDER] = "aios"
            span_name = f"{_GEN_AI_OPERATIONS[operation]} {model if isinstance(model, str) else 'default'}"
            if isinstance(model, str):
                attributes[telemetry.GEN_AI_REQUEST_MODEL] = model
            if isinstance(max_tokens, int):
                attributes[telemetry.GEN_AI_REQUEST_MAX_TOKENS] = max_tokens
        return CallSpan(self._tracer.start_span(span_name, kind=trace.SpanKind.CLIENT, attributes=attributes))

    def start_run(self, name: str, program: str) -> "RunSpan | None":
        """The span of one run of an agent, current until it ends; None where nothing is recorded."""
        if self._tracer is None:
            return None
        attributes = {
            **self._identity,
            telemetry.GEN_AI_OPERATION: "invoke_agent",
            telemetry.GEN_AI_AGENT_NAME: name,
            telemetry.PROGRAM: program,
        }
        return RunSpan(self._tracer.start_span("invoke_agent", kind=trace.SpanKind.INTERNAL, attributes=attributes))

    def start_tool(self, tool: str, call_id: str, traceparent: str | None) -> "RunSpan | None":
        """The span of one run of a tool that is served here, below the kernel's; None where nothing is recorded."""
        if self._tracer is None:
            return None
        parent = TraceContextTextMapPropagator().extract({headers.TRACEPARENT: traceparent} if traceparent else {})
        token = otel_context.attach(parent)
        try:
            attributes = {
                **self._identity,
                telemetry.GEN_AI_OPERATION: telemetry.SPAN_EXECUTE_TOOL,
                telemetry.GEN_AI_TOOL_NAME: tool,
                telemetry.SYSCALL_ID: call_id.rpartition(".")[2],
            }
            span = self._tracer.start_span(
                telemetry.SPAN_EXECUTE_TOOL, kind=trace.SpanKind.CONSUMER, attributes=attributes
            )
        finally:
            otel_context.detach(token)
        return RunSpan(span)

    async def flush(self) -> None:
        """Exports what was recorded, within some seconds: a dead collector costs spans, not the program's end."""
        tracer = self._tracer
        if not isinstance(tracer, Recorder):
            return
        loop, flushed = asyncio.get_running_loop(), asyncio.Event()

        def work() -> None:
            tracer.processor.force_flush(int(FLUSH_TIMEOUT_S * 1000))
            try:
                loop.call_soon_threadsafe(flushed.set)
            except RuntimeError:  # nobody waits any more and the loop is closed
                log.debug("the spans were flushed after the loop had ended")

        # A daemon thread, because the loop's own pool would be waited for without limit.
        threading.Thread(target=work, name="aios-flush", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await flushed.wait()
        except TimeoutError:
            log.warning("not all spans could be exported within %g s", FLUSH_TIMEOUT_S)


class RunSpan:
    """The span of one run, the parent of the calls made while it is current."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._token = otel_context.attach(trace.set_span_in_context(span))

    def end(self, error: BaseException | None) -> None:
        """The run is over."""
        otel_context.detach(self._token)
        if error is not None:
            self._span.set_attribute(telemetry.ERROR_TYPE, getattr(error, "code", type(error).__name__))
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)))
        self._span.end()


_GEN_AI_OPERATIONS: Final = {"llm.chat": "chat", "llm.complete": "text_completion", "llm.embed": "embeddings"}


def inherited_headers() -> dict[str, str]:
    """Trace context of the caller's current span, for calls that have no span of their own."""
    context = trace.get_current_span().get_span_context()
    return _context_headers(context) if context.is_valid else {}


def _context_headers(context: trace.SpanContext) -> dict[str, str]:
    sampled = int(context.trace_flags) & trace.TraceFlags.SAMPLED  # version 00 defines no other flag
    wire = {headers.TRACEPARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{sampled:02x}"}
    if context.trace_state:
        wire[headers.TRACESTATE] = context.trace_state.to_header()
    return wire
