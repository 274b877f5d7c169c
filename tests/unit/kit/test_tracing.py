"""What spans a call leaves behind: one a hop, children of each other, exported over OTLP/HTTP."""

import time
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.trace import SpanKind
from support.otlp_sink import OtlpSink, assert_one_connected_trace

from aios_kit.settings import ServiceSettings
from aios_kit.tracing import Tracing
from aios_proto.errors import QueueFull

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "AIOS_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as running:
        yield running


TracingTo = Callable[..., Tracing]


@pytest.fixture
def tracing_to(sink: OtlpSink) -> Iterator[TracingTo]:
    made: list[Tracing] = []

    def make(service: str = "demo", ratio: float = 1.0) -> Tracing:
        variables = {"AIOS_OTLP_ENDPOINT": sink.endpoint, "instance": "demo-1", "trace_sample_ratio": ratio}
        tracing = Tracing(service, ServiceSettings.model_validate(variables))
        made.append(tracing)
        return tracing

    yield make
    for tracing in made:
        tracing.close()


def test_without_an_endpoint_no_span_is_made_and_the_context_passes_through() -> None:
    hop = Tracing("demo", ServiceSettings()).hop("work", SAMPLED)
    assert not hop.recording
    assert hop.traceparent == SAMPLED
    assert hop.trace_id == TRACE
    hop.set({"a": 1})
    hop.event("moment")
    hop.end()


def test_without_an_endpoint_and_without_a_parent_there_is_no_trace() -> None:
    hop = Tracing("demo", ServiceSettings()).hop("work", None)
    assert (hop.traceparent, hop.trace_id) == (None, None)


def test_hops_become_one_connected_trace_at_the_collector(sink: OtlpSink, tracing_to: TracingTo) -> None:
    access, worker = tracing_to("access"), tracing_to("llm")
    first = access.hop("access", None, kind=SpanKind.SERVER, attributes={"aios.tenant": "acme"})
    second = access.hop("queue", first.traceparent)
    third = worker.hop("run", second.traceparent)
    assert first.trace_id == second.trace_id == third.trace_id
    for hop in (third, second, first):
        hop.end()
    access.close()
    worker.close()
    spans = sink.wait_until(lambda seen: len(seen) == 3)
    root = assert_one_connected_trace(spans, first.trace_id)
    assert (root.name, root.service) == ("access", "aios-access")
    by_name = {span.name: span for span in spans}
    assert by_name["queue"].parent_id == root.span_id
    assert by_name["run"].parent_id == by_name["queue"].span_id
    assert by_name["run"].service == "aios-llm"
    assert root.attributes["aios.tenant"] == "acme"


def test_an_unsampled_call_leaves_no_span_and_its_context_is_not_touched(sink: OtlpSink, tracing_to: TracingTo) -> None:
    tracing = tracing_to()
    unsampled = tracing.hop("work", UNSAMPLED)
    assert unsampled.traceparent == UNSAMPLED
    assert not unsampled.recording
    unsampled.end()
    tracing.hop("marker", SAMPLED).end()
    tracing.close()
    assert [span.name for span in sink.wait_until(lambda seen: len(seen) >= 1)] == ["marker"]


def test_flags_other_than_sampled_do_not_make_a_call_sampled(sink: OtlpSink, tracing_to: TracingTo) -> None:
    hop = tracing_to().hop("work", f"00-{TRACE}-b7ad6b7169203331-02")
    assert not hop.recording


def test_garbage_for_a_parent_begins_a_new_trace(sink: OtlpSink, tracing_to: TracingTo) -> None:
    hop = tracing_to().hop("work", "garbage-00")
    assert hop.recording
    assert hop.trace_id is not None
    hop.end()


def test_garbage_for_a_parent_does_not_travel_on_where_tracing_is_off() -> None:
    assert Tracing("demo", ServiceSettings()).hop("work", "garbage").traceparent is None


def test_with_a_ratio_of_zero_new_traces_are_not_recorded_but_a_sampled_parent_is_followed(
    sink: OtlpSink, tracing_to: TracingTo
) -> None:
    tracing = tracing_to(ratio=0.0)
    fresh = tracing.hop("fresh", None)
    assert not fresh.recording
    assert fresh.traceparent is not None
    assert int(fresh.traceparent[-2:], 16) & 1 == 0
    assert tracing.hop("next", fresh.traceparent).traceparent == fresh.traceparent
    followed = tracing.hop("followed", SAMPLED)
    assert followed.recording
    followed.end()


def test_an_error_stands_in_the_span_by_its_code(sink: OtlpSink, tracing_to: TracingTo) -> None:
    tracing = tracing_to()
    hop = tracing.hop("work", None)
    hop.event("accepted")
    hop.end(QueueFull("too much"))
    hop.end()
    tracing.close()
    (span,) = sink.wait_until(lambda seen: len(seen) == 1)
    assert span.attributes["error.type"] == "queue.full"
    assert span.status == "error"
    assert [event.name for event in span.events] == ["accepted"]


def test_a_collector_that_is_away_does_not_hold_the_service_up() -> None:
    with OtlpSink() as gone:
        endpoint = gone.endpoint
    tracing = Tracing("demo", ServiceSettings.model_validate({"AIOS_OTLP_ENDPOINT": endpoint}))
    tracing.hop("work", None).end()
    started = time.monotonic()
    tracing.close(0.2)
    assert time.monotonic() - started < 8
