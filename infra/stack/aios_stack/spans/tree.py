"""Which span stands under which: a trace as a tree, whole or cut down to one system call."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from aios_proto.telemetry import SYSCALL_ID
from aios_stack.spans.record import SpanRecord


@dataclass(slots=True)
class SpanNode:
    """A span with its children in order of their start.

    Attributes:
        span: the span.
        children: spans it caused.
        orphan: its parent is not there (yet), so it stands at the top though it is no root.
    """

    span: SpanRecord
    children: list["SpanNode"] = field(default_factory=list)
    orphan: bool = False

    def walk(self) -> Iterator["SpanNode"]:
        """This node and all below it, parents first."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))


def build(spans: Iterable[SpanRecord]) -> list[SpanNode]:
    """The top nodes of one trace: its root and whatever has lost its parent. Cycles are cut and shown as orphans."""
    nodes = {span.span_id: SpanNode(span) for span in spans}
    ordered = sorted(nodes.values(), key=lambda node: (node.span.start_ns, node.span.end_ns, node.span.span_id))
    top: list[SpanNode] = []
    for node in ordered:
        parent = node.span.parent_id
        if parent is None:
            top.append(node)
        elif parent not in nodes or _is_under_itself(node, nodes):
            node.orphan = True
            top.append(node)
        else:
            nodes[parent].children.append(node)
    return top


def is_complete(top: Sequence[SpanNode]) -> bool:
    """Whether this is one connected trace: one root and no missing parent."""
    return len(top) == 1 and not top[0].orphan


def focus(top: Iterable[SpanNode], syscall_id: str) -> list[SpanNode]:
    """The tree without the branches of other calls: the way down to the call, and everything below it."""
    kept = (_focused(node, syscall_id) for node in top)
    return [node for node in kept if node is not None]


def _focused(node: SpanNode, syscall_id: str) -> SpanNode | None:
    if node.span.attributes.get(SYSCALL_ID) == syscall_id:
        return node
    children = [kept for child in node.children if (kept := _focused(child, syscall_id)) is not None]
    return SpanNode(node.span, children, node.orphan) if children else None


def _is_under_itself(node: SpanNode, nodes: dict[str, SpanNode]) -> bool:
    seen: set[str] = set()
    at: SpanNode | None = node
    while at is not None and at.span.parent_id is not None:
        if at.span.span_id in seen:
            return at is node
        seen.add(at.span.span_id)
        at = nodes.get(at.span.parent_id)
    return False
