"""How a trace looks in a terminal: one line a span with start, duration, service, what matters and what failed."""

from collections.abc import Mapping, Sequence

from rich.text import Text
from rich.tree import Tree

from aios_proto import telemetry
from aios_stack.spans.record import AttributeValue, Status
from aios_stack.spans.tree import SpanNode

SHOWN_ATTRIBUTES: tuple[str, ...] = (
    telemetry.SYSCALL_OPERATION,
    telemetry.AGENT,
    telemetry.GROUP,
    telemetry.DECISION,
    telemetry.PRIORITY,
    telemetry.POLICY,
    telemetry.POOL,
    telemetry.WORKER,
    telemetry.ATTEMPT,
    telemetry.GEN_AI_REQUEST_MODEL,
    telemetry.GEN_AI_INPUT_TOKENS,
    telemetry.CACHED_TOKENS,
    telemetry.GEN_AI_OUTPUT_TOKENS,
    telemetry.GEN_AI_FINISH_REASONS,
    "http.response.status_code",
    telemetry.ERROR_TYPE,
)
_SHORT_NAMES = {
    telemetry.SYSCALL_OPERATION: "op",
    telemetry.GEN_AI_INPUT_TOKENS: "in",
    telemetry.GEN_AI_OUTPUT_TOKENS: "out",
    telemetry.GEN_AI_FINISH_REASONS: "finish",
    "http.response.status_code": "status",
    telemetry.ERROR_TYPE: "error",
}


def render(top: Sequence[SpanNode]) -> Tree:
    """A tree of all spans; times count from the trace's first start."""
    spans = [node.span for first in top for node in first.walk()]
    start_ns = min(span.start_ns for span in spans)
    services = sorted({span.service for span in spans if span.service})
    total_ms = (max(span.end_ns for span in spans) - start_ns) / 1e6
    head = Text.assemble(
        ("trace ", "bold"),
        (spans[0].trace_id, "bold cyan"),
        f"  {len(spans)} span{'s' if len(spans) != 1 else ''}, {duration(total_ms)}, {', '.join(services)}",
    )
    tree = Tree(head, guide_style="dim")
    for node in top:
        _add(tree, node, start_ns, {})
    return tree


def duration(milliseconds: float) -> str:
    """Milliseconds for a human: `0.42 ms`, `17.3 ms`, `2.41 s`."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:.1f} ms"


def _add(tree: Tree, node: SpanNode, start_ns: int, known: Mapping[str, AttributeValue]) -> None:
    branch = tree.add(_line(node, start_ns, known))
    for event in node.span.events:
        at = (event.time_ns - node.span.start_ns) / 1e6
        branch.add(Text.assemble(("· ", "dim"), (event.name, "dim"), (f" at {duration(at)}", "dim")))
    for child in node.children:
        _add(branch, child, start_ns, {**known, **node.span.attributes})


def _line(node: SpanNode, start_ns: int, known: Mapping[str, AttributeValue]) -> Text:
    span = node.span
    failed = span.status is Status.ERROR
    line = Text.assemble(
        (span.name, "bold red" if failed else "bold"),
        "  ",
        (span.service or "?", "magenta"),
        "  ",
        (duration(span.duration_ms), "green"),
        (f" @{duration((span.start_ns - start_ns) / 1e6)}", "dim"),
    )
    for name in SHOWN_ATTRIBUTES:
        value = span.attributes.get(name)
        if value is not None and known.get(name) != value:  # what stands further up is not said again
            short = _SHORT_NAMES.get(name, name.rsplit(".", 1)[-1])
            line.append(f"  {short}=", style="dim").append(_plain(value))
    if failed:
        line.append(f"  ✗ {span.status_message or 'failed'}", style="red")
    if node.orphan:
        line.append("  (its parent was not received)", style="yellow")
    return line


def _plain(value: AttributeValue) -> str:
    return ",".join(_plain(item) for item in value) if isinstance(value, tuple) else str(value)
