"""What is exported of an agent's calls, and what of the trace reaches the kernel."""

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.nats_server import NatsServer
from support.otlp_sink import OtlpSink, assert_one_connected_trace
from support.scripted_kernel import ScriptedKernel

import aios
from aios import Agent, _tracing
from aios_proto import errors


@pytest.fixture
def receiver(bus: NatsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpSink]:
    with OtlpSink() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.endpoint)
        yield running
        for key, recorder in list(_tracing._own.items()):
            if key[0] == running.endpoint:
                recorder.processor.shutdown()
                del _tracing._own[key]


async def test_a_chat_call_is_one_span_that_the_kernel_continues(receiver: OtlpSink, kernel: ScriptedKernel) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("Hello", " world")
    async with Agent() as agent:
        call = agent.llm.chat("Hi", model="m1", max_tokens=9)
        reply = await call
    (span,) = await receiver.wait(lambda spans: len(spans) == 1)
    assert span.service == "aios-agent"
    assert span.name == "chat m1"
    assert span.kind == 3
    assert [event.name for event in span.events] == ["accepted", "first_token"]
    assert span.trace_id == call.trace_id == reply.trace_id
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "aios",
        "gen_ai.request.model": "m1",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.response.model": "scripted",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "aios.usage.cached_tokens": 1,
        "aios.syscall.id": call.id,
        "aios.syscall.operation": "llm.chat",
        "aios.tenant": "acme",
        "aios.agent": "alice",
        "aios.program": agent.program,
    }
    sent = kernel.received[0].headers.traceparent
    assert sent == f"00-{call.trace_id}-{span.span_id}-01"


async def test_the_calls_of_a_run_hang_below_it(receiver: OtlpSink, kernel: ScriptedKernel) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("x")
    kernel.handlers["llm.models"] = lambda call: call.done({"models": []})
    async with Agent() as agent:
        with agent.run("researcher") as program:
            await asyncio.gather(agent.llm.chat("a"), agent.llm.models())
    spans = await receiver.wait(lambda spans: len(spans) == 3)
    root = assert_one_connected_trace(spans)
    assert root.name == "invoke_agent"
    assert root.attributes["gen_ai.agent.name"] == "researcher"
    assert {span.name for span in spans} == {"invoke_agent", "chat default", "llm.models"}
    assert {span.attributes["aios.program"] for span in spans} == {program}


async def test_a_failed_call_is_a_failed_span(receiver: OtlpSink, kernel: ScriptedKernel) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.error(errors.QueueFull("the queue is full"))
    kernel.handlers["made.up"] = kernel.handlers["llm.chat"]
    async with Agent() as agent:
        with pytest.raises(aios.QueueFull) as caught:
            await agent.llm.chat("a")
        with pytest.raises(aios.QueueFull):
            await agent.syscall("made", "up")
        with pytest.raises(ZeroDivisionError), agent.run("broken"):
            _ = 1 / 0
    failed, unknown, run = await receiver.wait(lambda spans: len(spans) == 3)
    assert failed.attributes["error.type"] == "queue.full"
    assert failed.status_message == "the queue is full"
    assert caught.value.trace_id == failed.trace_id
    assert unknown.name == "syscall"  # names are bounded, whatever is called
    assert run.attributes["error.type"] == "ZeroDivisionError"


async def test_nothing_is_exported_of_a_trace_that_is_not_sampled(
    receiver: OtlpSink, kernel: ScriptedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOS_TRACE_SAMPLE_RATIO", "0")
    kernel.handlers["llm.chat"] = lambda call: call.stream("x")
    async with Agent() as agent:
        await agent.llm.chat("a")
    assert receiver.spans == []
    assert (kernel.received[0].headers.traceparent or "").endswith("-00")


async def test_without_an_exporter_no_context_is_made_up(agent: Agent, kernel: ScriptedKernel) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("x")
    call = agent.llm.chat("a")
    await call
    assert kernel.received[0].headers.traceparent is None
    assert call.trace_id is None


async def test_the_context_of_a_caller_without_exporter_is_passed_on(agent: Agent, kernel: ScriptedKernel) -> None:
    kernel.handlers["llm.chat"] = lambda call: call.stream("x")
    state = trace.TraceState([("vendor", "1")])
    context = trace.SpanContext(0xA, 0xB, is_remote=True, trace_flags=trace.TraceFlags(1), trace_state=state)
    with trace.use_span(trace.NonRecordingSpan(context)):
        await agent.llm.chat("a")
    sent = kernel.received[0].headers
    assert sent.traceparent == f"00-{10:032x}-{11:016x}-01"
    assert sent.tracestate == "vendor=1"


async def test_an_application_that_traces_gets_the_spans_itself(
    kernel: ScriptedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    kernel.handlers["llm.chat"] = lambda call: call.stream("x")
    async with Agent() as agent:
        with provider.get_tracer("app").start_as_current_span("request"):
            await agent.llm.chat("a")
    call, request = exporter.get_finished_spans()
    assert call.parent is not None
    assert request.context is not None
    assert call.parent.span_id == request.context.span_id


async def test_a_dead_collector_does_not_keep_the_agent_from_closing(
    kernel: ScriptedKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(_tracing, "FLUSH_TIMEOUT_S", 0.5)
    kernel.handlers["llm.chat"] = lambda call: call.stream("x")
    async with asyncio.timeout(10), Agent() as agent:
        assert (await agent.llm.chat("a")).text == "x"
