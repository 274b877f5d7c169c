"""Which headers a call carries, and which of them are believed: a hop routes by these without parsing the body.

An agent may send the first group. The second group, the identity, is *stamped by access* from the subject, which the
bus has authenticated: what an agent sends there is dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, overload

from aios_proto import PROTOCOL_VERSION
from aios_proto.errors import InvalidRequest, UnsupportedProtocol
from aios_proto.names import is_name, is_syscall_id

ID: Final = "Aios-Id"
MSG_ID: Final = "Nats-Msg-Id"
PROGRAM: Final = "Aios-Program"
PRIORITY: Final = "Aios-Priority"
DEADLINE: Final = "Aios-Deadline"
AFTER: Final = "Aios-After"
CONTEXT: Final = "Aios-Context"
DURABILITY: Final = "Aios-Durability"
PROTO: Final = "Aios-Proto"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

TENANT: Final = "Aios-Tenant"
AGENT: Final = "Aios-Agent"
GROUP: Final = "Aios-Group"
REPLY: Final = "Aios-Reply"
TIMES: Final = "Aios-Times"
ATTEMPT: Final = "Aios-Attempt"
OPERATION: Final = "Aios-Operation"
FENCE: Final = "Aios-Fence"
"""On commands to workers: the fencing token of the scheduler that sends them. A worker obeys none older than the newest
it has seen."""

TAINT: Final = "Aios-Taint"
"""Stamped by access: where untrusted content came from that the program has seen, such as `tool:fetch`, by commas."""
APPROVAL: Final = "Aios-Approval"
"""Stamped by access on a call a human has approved. Whoever runs it redeems it first, so that it runs once."""
BUDGET: Final = "Aios-Budget"
"""Stamped by access on a model call whose tokens or cost are limited: how many tokens it may use at most."""

INCARNATION: Final = "Aios-Incarnation"
"""On a `run`: the start of the worker's process that it is for. One that has been started anew does not take it: the
scheduler gives the call again when it hears of the new start."""
AWAITED: Final = "Aios-Awaited"
"""On a `run`: other calls wait for this one's result, so the worker tells the scheduler what it is, if it is short."""

DEFAULT_PRIORITY: Final = 5
MAX_PRIORITY: Final = 9
MAX_AFTER: Final = 64

Durability = Literal["durable", "volatile"]


@dataclass(slots=True)
class CallHeaders:
    """One call's headers, parsed and checked. Nobody changes one: `dataclasses.replace` makes another.

    Python is not told so, because that makes each of them take 7 us instead of 2, at every hop of every call.

    Attributes:
        id: names the call; the same id sent twice runs once.
        program: the agent run this call belongs to; the scheduler's unit. Defaults to the agent's name.
        priority: 0 (lowest) to 9 (highest).
        deadline_ms: Unix time in milliseconds after which the answer is of no use; None means the kernel's default.
        after: ids of calls that must have ended before this one starts.
        context: id of a context this call works on.
        durability: None means the operation's own default.
        traceparent: W3C trace context, passed through as it came.
        tenant: stamped by access.
        agent: stamped by access.
        group: stamped by access.
        reply: stamped by access: where all frames of this call go.
        times_us: stamped on the way, Unix time in microseconds: received by access, taken into the scheduler's queue,
            given to a worker; shorter while the call is on its way.
        attempt: how often the call has been given to a worker, from 1; 0 before the first.
        operation: set by the scheduler on what it gives to a worker: `chat` or `complete`.
        taint: stamped by access: sources of untrusted content the program has seen; empty where it has seen none.
        approval: stamped by access: the id of the approval a human gave; empty where none was needed.
        budget_tokens: stamped by access: tokens of prompt and answer that the call may use at most, which is what it
            has reserved of its quotas and what is left of the tightest of them; None where nothing limits them.
        awaited: said by the scheduler to a worker: other calls wait for the result.
    """

    id: str
    program: str | None = None
    priority: int = DEFAULT_PRIORITY
    deadline_ms: int | None = None
    after: tuple[str, ...] = ()
    context: str | None = None
    durability: Durability | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    tenant: str = ""
    agent: str = ""
    group: str = ""
    reply: str = ""
    times_us: tuple[int, ...] = ()
    attempt: int = 0
    operation: str = ""
    taint: tuple[str, ...] = ()
    approval: str = ""
    budget_tokens: int | None = None
    awaited: bool = False

    @property
    def key(self) -> str:
        """Names the call among all agents' calls: `<tenant>.<agent>.<id>`; safe as a KV key and a message id."""
        return f"{self.tenant}.{self.agent}.{self.id}"

    def to_wire(self) -> dict[str, str]:
        """The headers as sent; those at their default are left out."""
        wire = {ID: self.id, PROTO: str(PROTOCOL_VERSION)}
        if self.program is not None:
            wire[PROGRAM] = self.program
        if self.priority != DEFAULT_PRIORITY:
            wire[PRIORITY] = str(self.priority)
        if self.deadline_ms is not None:
            wire[DEADLINE] = str(self.deadline_ms)
        if self.after:
            wire[AFTER] = ",".join(self.after)
        if self.context is not None:
            wire[CONTEXT] = self.context
        if self.durability is not None:
            wire[DURABILITY] = self.durability
        if self.traceparent is not None:
            wire[TRACEPARENT] = self.traceparent
        if self.tracestate is not None:
            wire[TRACESTATE] = self.tracestate
        if self.tenant:
            wire[TENANT] = self.tenant
            wire[AGENT] = self.agent
            wire[GROUP] = self.group
        if self.reply:
            wire[REPLY] = self.reply
        if self.times_us:
            wire[TIMES] = ",".join(map(str, self.times_us))
        if self.attempt:
            wire[ATTEMPT] = str(self.attempt)
        if self.operation:
            wire[OPERATION] = self.operation
        if self.taint:
            wire[TAINT] = ",".join(self.taint)
        if self.approval:
            wire[APPROVAL] = self.approval
        if self.awaited:
            wire[AWAITED] = "1"
        if self.budget_tokens is not None:
            wire[BUDGET] = str(self.budget_tokens)
        return wire

    def to_text(self, traceparent: str | None = None) -> str:
        """The same as one block, a line a header, made faster for the hop that sees every call.

        Args:
            traceparent: goes out in place of the call's own.
        """
        traceparent = traceparent or self.traceparent
        if (
            not (self.program and self.deadline_ms and self.tenant and self.reply and len(self.times_us) == 1)
            or self.after
            or self.durability
            or self.attempt
            or self.operation
            or self.taint
            or self.approval
            or self.budget_tokens is not None
            or self.awaited
        ):
            return _text(self.to_wire(), traceparent)
        text = (
            f"Aios-Id: {self.id}\r\nAios-Proto: {_VERSION}\r\nAios-Program: {self.program}\r\n"
            f"Aios-Deadline: {self.deadline_ms}\r\nAios-Tenant: {self.tenant}\r\nAios-Agent: {self.agent}\r\n"
            f"Aios-Group: {self.group}\r\nAios-Reply: {self.reply}\r\nAios-Times: {self.times_us[0]}"
        )
        breaks = 8
        if self.priority != DEFAULT_PRIORITY:
            text += f"\r\nAios-Priority: {self.priority}"
            breaks += 1
        if self.context is not None:
            text += f"\r\nAios-Context: {self.context}"
            breaks += 1
        if traceparent is not None:
            text += f"\r\ntraceparent: {traceparent}"
            breaks += 1
        if self.tracestate is not None:
            text += f"\r\ntracestate: {self.tracestate}"
            breaks += 1
        if text.count("\n") != breaks or text.count("\r") != breaks:
            return _text(self.to_wire(), traceparent)
        return text


def from_agent(
    wire: Mapping[str, str] | None,
    *,
    tenant: str = "",
    agent: str = "",
    group: str = "",
    reply: str = "",
    times_us: tuple[int, ...] = (),
    deadline_ms: int | None = None,
) -> CallHeaders:
    """Reads the headers an agent may set; the identity headers are not looked at.

    Args:
        wire: as the agent sent them.
        tenant: to be stamped.
        agent: to be stamped; also the program of a call that names none.
        group: to be stamped.
        reply: to be stamped.
        times_us: to be stamped.
        deadline_ms: of a call that names none.

    Raises:
        InvalidRequest: a header is missing or malformed; `field` names it.
        UnsupportedProtocol: `Aios-Proto` is missing or another version.
    """
    wire = wire or {}
    version = wire.get(PROTO)
    if version != _VERSION:
        if version is None:
            raise InvalidRequest(f"the header {PROTO} is missing", field=PROTO)
        raise UnsupportedProtocol(f"protocol version {version!r} is not spoken here, only {_VERSION}", field=PROTO)
    call_id = wire.get(ID)
    if call_id is None:
        raise InvalidRequest(f"the header {ID} is missing", field=ID)
    if not is_syscall_id(call_id):
        raise InvalidRequest("the id must be 1 to 64 letters, digits, `_` or `-`", field=ID)
    program = wire.get(PROGRAM)
    if program is not None and not is_syscall_id(program):
        raise InvalidRequest("the program must be 1 to 64 letters, digits, `_` or `-`", field=PROGRAM)
    if len(wire) == (2 if program is None else 3):  # it says nothing else
        return CallHeaders(
            call_id,
            program or agent or None,
            DEFAULT_PRIORITY,
            deadline_ms,
            tenant=tenant,
            agent=agent,
            group=group,
            reply=reply,
            times_us=times_us,
        )
    context = wire.get(CONTEXT)
    if context is not None and not is_name(context):
        raise InvalidRequest("the context must be 1 to 64 letters, digits, `_` or `-`", field=CONTEXT)
    own_deadline_ms = _integer(wire, DEADLINE, None, 1, 1 << 53)
    return CallHeaders(
        id=call_id,
        program=program or agent or None,
        priority=_integer(wire, PRIORITY, DEFAULT_PRIORITY, 0, MAX_PRIORITY),
        deadline_ms=deadline_ms if own_deadline_ms is None else own_deadline_ms,
        after=_after(wire.get(AFTER)),
        context=context,
        durability=_durability(wire.get(DURABILITY)),
        traceparent=wire.get(TRACEPARENT),
        tracestate=wire.get(TRACESTATE),
        tenant=tenant,
        agent=agent,
        group=group,
        reply=reply,
        times_us=times_us,
    )


def from_kernel(wire: Mapping[str, str] | None) -> CallHeaders:
    """Reads headers that another kernel service wrote: no checks beyond what types need.

    Raises:
        InvalidRequest: the message was not written by a kernel service of this version.
    """
    wire = wire or {}
    try:
        after, times, taint = wire.get(AFTER), wire.get(TIMES), wire.get(TAINT)
        return CallHeaders(
            id=wire[ID],
            program=wire.get(PROGRAM),
            priority=int(wire.get(PRIORITY, DEFAULT_PRIORITY)),
            deadline_ms=int(wire[DEADLINE]) if DEADLINE in wire else None,
            after=tuple(after.split(",")) if after else (),
            context=wire.get(CONTEXT),
            durability=_durability(wire.get(DURABILITY)),
            traceparent=wire.get(TRACEPARENT),
            tracestate=wire.get(TRACESTATE),
            tenant=wire.get(TENANT, ""),
            agent=wire.get(AGENT, ""),
            group=wire.get(GROUP, ""),
            reply=wire.get(REPLY, ""),
            times_us=tuple(int(part) for part in times.split(",")) if times else (),
            attempt=int(wire.get(ATTEMPT, 0)),
            operation=wire.get(OPERATION, ""),
            taint=tuple(taint.split(",")) if taint else (),
            approval=wire.get(APPROVAL, ""),
            budget_tokens=int(wire[BUDGET]) if BUDGET in wire else None,
            awaited=wire.get(AWAITED) == "1",
        )
    except (KeyError, ValueError) as error:
        raise InvalidRequest(f"not a kernel message: {error}", field="headers") from error


_VERSION: Final = str(PROTOCOL_VERSION)
_BREAKS: Final = str.maketrans("\r\n", "  ")


def _text(wire: dict[str, str], traceparent: str | None) -> str:
    """Headers as lines; a line break in a value, which could forge a header, becomes a space."""
    if traceparent is not None:
        wire[TRACEPARENT] = traceparent
    return "\r\n".join(f"{name}: {value.translate(_BREAKS)}" for name, value in wire.items())


@overload
def _integer(wire: Mapping[str, str], name: str, default: int, low: int, high: int) -> int: ...
@overload
def _integer(wire: Mapping[str, str], name: str, default: None, low: int, high: int) -> int | None: ...
def _integer(wire: Mapping[str, str], name: str, default: int | None, low: int, high: int) -> int | None:
    text = wire.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and low <= int(text) <= high):
        raise InvalidRequest(f"{name} must be a whole number from {low} to {high}, not {text[:40]!r}", field=name)
    return int(text)


def _after(text: str | None) -> tuple[str, ...]:
    if not text:
        return ()
    ids = tuple(part.strip() for part in text.split(","))
    if len(ids) > MAX_AFTER or not all(is_syscall_id(part) for part in ids):
        raise InvalidRequest(f"{AFTER} must list at most {MAX_AFTER} call ids, separated by commas", field=AFTER)
    return ids


def _durability(text: str | None) -> Durability | None:
    if text is None:
        return None
    if text == "durable":
        return "durable"
    if text == "volatile":
        return "volatile"
    raise InvalidRequest("must be `durable` or `volatile`", field=DURABILITY)
