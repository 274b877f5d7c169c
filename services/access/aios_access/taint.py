"""Which programs have taken in content that must not steer them, and how that spreads: by use, not by guess.

Untrusted are the outputs of tools and what others wrote: shared memory, other agents' notes, contexts and files, and
folders of the host. A program that is given such content is tainted from the moment its call for it is passed on,
before the answer can come. The mark spreads to contexts it writes, and from a context to every program that uses it;
what a tainted program keeps for its own agent, in memory or files, taints the program that reads it later. A mark is
never taken off: a new program starts clean. Marks are conservative: they say what may have happened.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from pydantic import JsonValue

from aios_access.resources import parse_body
from aios_proto.errors import MalformedRequest
from aios_proto.headers import CallHeaders
from aios_proto.names import is_name
from aios_proto.operations import Operation

MAX_LABELS: Final = 8
MORE: Final = "more"
STORED: Final = "stored"

_CONTEXT_READS = frozenset({"context.get", "context.window", "context.fork", "context.restore", "context.snapshot"})
_CONTEXT_WRITES = frozenset({"context.open", "context.append", "context.fork", "context.restore", "context.record"})
_NAMED_BY_MANAGER = frozenset({"context.snapshot", "context.open", "context.fork", "context.restore"})
_MODEL_CALLS = frozenset({"llm.chat", "llm.complete"})
_MEMORY_READS = frozenset({"memory.get", "memory.search", "memory.list", "memory.inject"})
_STORAGE_READS = frozenset({"storage.read", "storage.search"})
_KEEPS = frozenset({"memory.add", "memory.update", "storage.write", "storage.upload", "storage.move"})
_SOURCES = _CONTEXT_READS | _MEMORY_READS | _STORAGE_READS | {"tool.call"}
_PRUNE_AT = 50_000

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """That something is tainted.

    Attributes:
        key: what: `p.<tenant>.<agent>.<program>`, `c.<tenant>.<agent>.<context>`, or `s.<tenant>.<agent>` for what an
            agent keeps.
        labels: where the content came from, such as `tool:fetch`, `pool:news`, `agent:bob`, `stored`.
    """

    key: str
    labels: Labels


class Taint:
    """All marks, in memory; kept up to date by whoever watches the store.

    Args:
        trusted_tools: tools whose output is not untrusted.
        lifetime_s: seconds for which a mark stands after it was last made.
    """

    def __init__(self, trusted_tools: frozenset[str], lifetime_s: float) -> None:
        self._trusted = trusted_tools
        self._lifetime_s = lifetime_s
        self._marks: dict[str, tuple[Labels, float]] = {}

    def of_program(self, tenant: str, agent: str, program: str, context: str | None = None) -> Labels:
        """What a program has taken in, with what the context holds that it works on."""
        labels = self._labels(f"p.{tenant}.{agent}.{program}")
        return labels if context is None else _joined(labels, self._labels(f"c.{tenant}.{agent}.{context}"))

    def of_call(self, headers: CallHeaders) -> Labels:
        """What the program of a call has taken in before it."""
        return self.of_program(headers.tenant, headers.agent, headers.program or headers.agent, headers.context)

    def marks_of(self, headers: CallHeaders, operation: Operation, body: bytes) -> tuple[Labels, list[Mark]]:
        """What a call taints.

        Args:
            headers: of the call, stamped.
            operation: what it asks for.
            body: as sent.

        Returns:
            All labels of the program with this call, and the marks that are new by it: they must be stored before the
            call goes on.
        """
        name = operation.full_name
        if not self._marks and name not in _SOURCES:
            return (), []
        tenant, agent = headers.tenant, headers.agent
        program_key = f"p.{tenant}.{agent}.{headers.program}"
        parsed = _parsed(body) if operation.manager == "context" else {}
        owner = _text(parsed, "owner") or agent
        context = _text(parsed, "context") or headers.context or ""
        sources = self._sources(name, headers, body)
        if name in _CONTEXT_READS or name in _MODEL_CALLS:
            sources = _joined(sources, self._labels(f"c.{tenant}.{owner}.{context}"))
            if owner != agent and is_name(owner):
                sources = _joined(sources, (f"agent:{owner}",))
            if name == "context.restore" and self._labels(f"s.{tenant}.{agent}"):
                sources = _joined(sources, (STORED,))
        labels = _joined(self._labels(program_key), sources)
        if not labels:
            return (), []
        wanted = [Mark(program_key, labels)]
        if name in _CONTEXT_WRITES or name in _MODEL_CALLS:
            written = {_text(parsed, "fork") if name == "context.fork" else context}
            wanted += [Mark(f"c.{tenant}.{agent}.{each}", labels) for each in written if is_name(each)]
        if name in _KEEPS or name in _NAMED_BY_MANAGER:
            wanted.append(Mark(f"s.{tenant}.{agent}", labels))
        return labels, [mark for mark in wanted if not set(mark.labels) <= set(self._labels(mark.key))]

    def take(self, key: str, value: bytes | None) -> None:
        """A mark was stored, or is no more."""
        if value is None:
            self._marks.pop(key, None)
            return
        labels, at_s = read_mark(value)
        if len(self._marks) >= _PRUNE_AT:
            now = time.time()
            self._marks = {each: mark for each, mark in self._marks.items() if mark[1] > now}
        self._marks[key] = (_joined(labels, self._labels(key)), at_s + self._lifetime_s)

    def _sources(self, name: str, headers: CallHeaders, body: bytes) -> Labels:
        if name == "tool.call":
            tool = _text(_parsed(body), "name")
            return () if not is_name(tool) or tool in self._trusted else (f"tool:{tool}",)
        if name in _MEMORY_READS or name in _STORAGE_READS:
            parsed = _parsed(body)
            labels: Labels = ()
            pool, owner = _text(parsed, "pool"), _text(parsed, "agent")
            top = (_text(parsed, "path") or _text(parsed, "prefix")).lstrip("/").partition("/")[0]
            if top.startswith("~"):
                owner = top[1:]
            if is_name(pool):
                labels = (f"pool:{pool}",)
            if top.startswith("@") and is_name(top[1:]):
                labels = (f"mount:{top[1:]}",)
            if is_name(owner) and owner != headers.agent:
                labels = _joined(labels, (f"agent:{owner}",))
            if self._labels(f"s.{headers.tenant}.{headers.agent}"):
                labels = _joined(labels, (STORED,))
            return labels
        return ()

    def _labels(self, key: str) -> Labels:
        mark = self._marks.get(key)
        if mark is None or mark[1] <= time.time():
            return ()
        return mark[0]


def write_mark(labels: Labels, at_s: float) -> bytes:
    """A mark's value in the store."""
    return orjson.dumps({"labels": labels, "at_ms": int(at_s * 1000)})


def read_mark(value: bytes) -> tuple[Labels, float]:
    """A stored mark: its labels and when it was made, Unix seconds. One that cannot be read still taints."""
    try:
        parsed = orjson.loads(value)
        return tuple(str(label) for label in parsed["labels"]), int(parsed["at_ms"]) / 1000
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return (MORE,), time.time()


def _joined(first: Labels, second: Labels) -> Labels:
    if not second:
        return first
    joined = tuple(dict.fromkeys((*first, *second)))
    return joined if len(joined) <= MAX_LABELS else (*joined[: MAX_LABELS - 1], MORE)


def _parsed(body: bytes) -> Mapping[str, JsonValue]:
    try:
        return parse_body(body)
    except MalformedRequest:
        return {}  # the manager says what is wrong with it


def _text(body: Mapping[str, JsonValue], field: str) -> str:
    value = body.get(field)
    return value if isinstance(value, str) else ""
