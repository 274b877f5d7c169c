"""Traces as trees: what stands under what, what is missing, and how it reads."""

import io

from rich.console import Console

from aios_proto.telemetry import SYSCALL_ID
from aios_stack.spans.record import SpanEvent, SpanRecord, Status
from aios_stack.spans.render import duration, render
from aios_stack.spans.tree import build, focus, is_complete

TRACE = "0af7651916cd43dd8448eb211c80319c"
MS = 1_000_000


def span(
    span_id: str, parent: str | None, start: int, end: int, *, service: str = "aios-access", call: str | None = None
) -> SpanRecord:
    return SpanRecord(
        trace_id=TRACE,
        span_id=span_id,
        parent_id=parent,
        service=service,
        name=f"name-{span_id}",
        kind=1,
        start_ns=start * MS,
        end_ns=end * MS,
        attributes={} if call is None else {SYSCALL_ID: call},
    )


def text(spans: list[SpanRecord]) -> str:
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(render(build(spans)))
    return out.getvalue()


def test_children_stand_under_their_parent_in_order_of_start() -> None:
    (root,) = build([span("c", "a", 5, 6), span("b", "a", 1, 3), span("a", None, 0, 10), span("d", "b", 2, 3)])
    assert [node.span.span_id for node in root.walk()] == ["a", "b", "d", "c"]
    assert is_complete([root])


def test_a_span_without_its_parent_is_shown_and_marked() -> None:
    top = build([span("a", None, 0, 10), span("x", "gone", 2, 3)])
    assert not is_complete(top)
    assert [(node.span.span_id, node.orphan) for node in top] == [("a", False), ("x", True)]
    assert "parent was not received" in text([span("a", None, 0, 10), span("x", "gone", 2, 3)])


def test_a_cycle_does_not_hang_and_loses_no_span() -> None:
    top = build([span("a", "b", 0, 1), span("b", "a", 0, 1), span("c", "b", 0, 1), span("s", "s", 0, 1)])
    assert sorted(node.span.span_id for first in top for node in first.walk()) == ["a", "b", "c", "s"]
    assert not is_complete(top)


def test_only_the_asked_call_of_a_long_program_is_shown() -> None:
    spans = [
        span("root", None, 0, 100),
        span("call1", "root", 1, 5, call="one"),
        span("call2", "root", 6, 9, call="two"),
        span("under2", "call2", 7, 8),
    ]
    (root,) = focus(build(spans), "two")
    assert [node.span.span_id for node in root.walk()] == ["root", "call2", "under2"]
    assert focus(build(spans), "three") == []


def test_the_picture_names_service_duration_attributes_and_the_error() -> None:
    failed = SpanRecord(
        trace_id=TRACE,
        span_id="b",
        parent_id="a",
        service="aios-llm",
        name="worker.run",
        kind=5,
        start_ns=2 * MS,
        end_ns=1502 * MS,
        status=Status.ERROR,
        status_message="the engine is gone",
        attributes={"aios.worker": "w1", "gen_ai.response.finish_reasons": ("length",), "hidden": "yes"},
        events=(SpanEvent("first_token", 30 * MS),),
    )
    picture = text([span("a", None, 0, 1503), failed])
    assert f"trace {TRACE}  2 spans, 1.50 s, aios-access, aios-llm" in picture
    assert "worker.run  aios-llm  1.50 s @2.00 ms  worker=w1  finish=length  ✗ the engine is gone" in picture
    assert "first_token at 28.0 ms" in picture
    assert "hidden" not in picture


def test_durations_keep_three_digits() -> None:
    assert [duration(ms) for ms in (0.421, 17.34, 999.96, 2410)] == ["0.42 ms", "17.3 ms", "1000.0 ms", "2.41 s"]
