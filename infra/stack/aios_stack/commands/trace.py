"""`aios trace`: one call or trace as a tree, from the span store."""

import re
import time
from pathlib import Path

import click

from aios_proto.errors import InvalidRequest, ResourceNotFound
from aios_stack.commands.options import data_option, output
from aios_stack.data_folder import DataFolder
from aios_stack.spans.render import render
from aios_stack.spans.store import SpanReader
from aios_stack.spans.tree import SpanNode, build, focus, is_complete

# Services export every half second; a whole trace that has not grown for this long has all its spans.
_QUIET_S = 1.0
_CHECK_INTERVAL_S = 0.1
_TRACE_ID = re.compile(r"[0-9a-fA-F]{32}\Z")


@click.command()
@click.argument("call", required=False)
@click.option("--last", is_flag=True, help="The system call that was started last.")
@data_option
@click.option("--wait", "wait_s", type=float, default=5.0, show_default=True, help="Seconds to wait for late spans.")
def trace(call: str | None, last: bool, data: Path | None, wait_s: float) -> None:
    """Print the trace of CALL, the id of a system call or of a trace."""
    if (call is None) == (not last):
        raise InvalidRequest("give the id of a call or of a trace, or --last", field="call")
    folder = DataFolder.find(data)
    try:
        with SpanReader(folder.spans) as reader:
            top = _collect(reader, call, wait_s)
    except FileNotFoundError as error:
        raise ResourceNotFound(f"there is no span store in {folder.path}; start one with `aios up`") from error
    console = output()
    for tree in top:
        console.print(render(tree))


def _collect(reader: SpanReader, call: str | None, wait_s: float) -> list[list[SpanNode]]:
    """The trees asked for, once they are whole and quiet, or when the time is up."""
    deadline = time.monotonic() + wait_s
    seen, since = -1, time.monotonic()
    while True:
        trees = _trees(reader, call)
        size = sum(1 for tree in trees for node in tree for _ in node.walk())
        now = time.monotonic()
        if size != seen:
            seen, since = size, now
        quiet = bool(trees) and all(is_complete(tree) for tree in trees) and now - since >= _QUIET_S
        if quiet or now >= deadline:
            break
        time.sleep(_CHECK_INTERVAL_S)  # SQLite tells other processes nothing
    if not trees:
        raise ResourceNotFound(f"no span of {call} was received" if call else "no system call was traced yet")
    return trees


def _trees(reader: SpanReader, call: str | None) -> list[list[SpanNode]]:
    if call is not None and _TRACE_ID.match(call):
        spans = reader.spans_of(call.lower())
        return [build(spans)] if spans else []
    wanted = call if call is not None else reader.last_syscall()
    if wanted is None:
        return []
    return [focus(build(reader.spans_of(trace_id)), wanted) for trace_id in reader.traces_of(wanted)]
