"""When a parked call goes on, is refused or runs out of time, and that it runs once.

A call that needs a human's consent is kept whole under an id made of its key, so the same call sent twice is parked
once. Its states: `pending` -> `approved` -> `released`, or `pending` -> `denied` | `expired`; its agent may cancel it
until it has begun (`cancelled`). Each step is a compare-and-set in the store, so of several replicas exactly one takes
it. What must follow a step (the call is sent to its manager, or its caller is told the end) is done by whoever took it
and, where that process died, again by any other: sending an approved call twice is safe because whoever runs it redeems
the approval first, and only one can.
"""

import base64
import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aios_access.hearing import joins
from aios_proto import headers as wire
from aios_proto.errors import (
    AccessDenied,
    AiosError,
    ApprovalDenied,
    InternalError,
    InvalidRequest,
    ResourceConflict,
    ResourceNotFound,
    SyscallCancelled,
)
from aios_proto.headers import CallHeaders
from aios_proto.messages.access import ApprovalInfo, ApprovalState
from aios_proto.messages.syscall import SyscallInfo
from aios_proto.names import Name

ID_DIGITS = 24
_SUMMARY_CHARS = 400
_MOST_LISTENERS = 8
SEND_AGAIN_S = 2.0
"""Seconds after which an approved call that nobody has redeemed is sent again, and an untold end told again."""

DecidedState = Literal["approved", "denied"]


class Parked(BaseModel):
    """One parked call: the value of one key.

    Attributes:
        headers: as stamped, in wire form; their reply subject is where it was asked last.
        listeners: where its caller wants its frames, too.
        body: base 64; empty once the call has ended here or was released.
        told: whether the caller has been sent how it ended here.
        sent_ms: when it was last sent to its manager.
        holder: the one delivery that redeemed it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    approval_id: str
    tenant: Name
    operation: str
    headers: dict[str, str]
    listeners: tuple[str, ...] = ()
    body: str
    summary: str
    why: str
    durable: bool
    keeps_deadline: bool = Field(description="whether the caller named the deadline itself")
    state: ApprovalState = "pending"
    parked_ms: int
    expires_ms: int
    decided_by: str | None = None
    reason: str | None = None
    told: bool = False
    sent_ms: int = 0
    holder: str = ""

    @property
    def key(self) -> str:
        """Its place in the bucket."""
        return f"{self.tenant}.{self.approval_id}"

    def call_headers(self) -> CallHeaders:
        """The headers of the call."""
        return wire.from_kernel(self.headers)

    def call_body(self) -> bytes:
        """The body of the call."""
        return base64.b64decode(self.body)

    @property
    def inboxes(self) -> tuple[str, ...]:
        """Everyone who must hear how it ended."""
        return (self.call_headers().reply, *self.listeners)

    def open_call(self, now_ms: int) -> SyscallInfo:
        """What its agent is shown of it among its open calls."""
        headers, waits = self.call_headers(), self.state == "pending"
        return SyscallInfo(
            id=headers.id,
            operation=self.operation,
            state="parked" if waits else "queued",
            program=headers.program or headers.agent,
            priority=headers.priority,
            deadline_ms=self.expires_ms,
            age_s=round(max(0, now_ms - self.parked_ms) / 1000, 3),
            why=f"{self.why} asks a human" if waits else "a human has let it pass",
        )

    def info(self) -> ApprovalInfo:
        """What a human is shown."""
        headers = self.call_headers()
        return ApprovalInfo(
            approval_id=self.approval_id,
            syscall_id=headers.id,
            tenant=self.tenant,
            agent=headers.agent,
            program=headers.program or headers.agent,
            operation=self.operation,
            summary=self.summary,
            why=self.why,
            taint=list(headers.taint),
            state=self.state,
            parked_ms=self.parked_ms,
            expires_ms=self.expires_ms,
            decided_by=self.decided_by,
            reason=self.reason,
        )


Action = Literal["expire", "send", "tell", "nothing"]


def approval_id_of(headers: CallHeaders) -> str:
    """The id of the approval of this call: the same for the same call, not to be guessed from another's."""
    return approval_id_of_key(headers.key)


def approval_id_of_key(key: str) -> str:
    """The same, of the call's key `<tenant>.<agent>.<id>`."""
    return hashlib.sha256(key.encode()).hexdigest()[:ID_DIGITS]


def parked(
    headers: CallHeaders,
    operation: str,
    body: bytes,
    *,
    why: str,
    durable: bool,
    keeps_deadline: bool,
    now_ms: int,
    timeout_s: float,
) -> Parked:
    """A call as it is parked; it expires after `timeout_s`, or at a deadline the caller named if that is earlier.

    One whose operation is `durable` goes on as a durable call, also where its caller wanted a volatile one: who runs it
    redeems nothing, so it is the queue that sees to it that it is sent once.
    """
    if durable:
        headers = replace(headers, durability="durable")
    expires_ms = now_ms + int(timeout_s * 1000)
    if keeps_deadline and headers.deadline_ms is not None:
        expires_ms = min(expires_ms, headers.deadline_ms)
    return Parked(
        approval_id=approval_id_of(headers),
        tenant=headers.tenant,
        operation=operation,
        headers=headers.to_wire(),
        body=base64.b64encode(body).decode(),
        summary=summary_of(operation, body),
        why=why,
        durable=durable,
        keeps_deadline=keeps_deadline,
        parked_ms=now_ms,
        expires_ms=expires_ms,
    )


def summary_of(operation: str, body: bytes) -> str:
    """What will happen, on one line: the operation and the beginning of its arguments; control characters shown."""
    text = body[: 4 * _SUMMARY_CHARS].decode("utf-8", "replace")
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
    cut = shown if len(shown) <= _SUMMARY_CHARS else f"{shown[:_SUMMARY_CHARS]}... ({len(body)} bytes)"
    return f"{operation} {cut}"


def read(value: bytes) -> Parked | None:
    """A stored value; None where it cannot be read."""
    try:
        return Parked.model_validate_json(value)
    except ValidationError:
        return None


def asked_again(known: Parked, headers: CallHeaders, operation: str, body: bytes) -> Parked:
    """A parked call that its agent sends again, perhaps from a new inbox.

    Raises:
        ResourceConflict: another call has the same id, or it runs already.
        ApprovalDenied: it was refused, or ran out of time.
        SyscallCancelled: its agent has cancelled it.
    """
    if known.state in ("denied", "expired", "cancelled"):
        raise refusal_of(known)
    if known.state == "released":
        raise ResourceConflict(
            "this call was approved and has begun; its answer goes to who asked first", field="Aios-Id"
        )
    if (known.operation, known.call_body()) != (operation, body):
        raise ResourceConflict("another call of this agent with this id waits for approval", field="Aios-Id")
    return heard_at(known, headers.reply)


def heard_at(known: Parked, reply: str) -> Parked:
    """One whose caller wants its frames at a further inbox; there it is answered first."""
    earlier = [inbox for inbox in known.inboxes if inbox != reply]
    return known.model_copy(
        update={"headers": {**known.headers, wire.REPLY: reply}, "listeners": tuple(earlier[:_MOST_LISTENERS])}
    )


def attached(known: Parked, reply: str) -> Parked | None:
    """The next state where its agent attaches to it; None where it has gone on from here.

    Raises:
        ApprovalDenied: it was refused, or ran out of time.
        SyscallCancelled: its agent has cancelled it.
        InvalidRequest: its manager answers at one inbox only, and that is its maker's.
    """
    if known.state in ("denied", "expired", "cancelled"):
        raise refusal_of(known)
    if known.state == "released" or is_being_queued(known):
        return None
    if not joins(known.operation):
        raise InvalidRequest(f"{known.operation} is answered only where it was called from", field="id")
    return heard_at(known, reply)


def decided(known: Parked, state: DecidedState, *, tenant: str, by: str, reason: str | None, now_ms: int) -> Parked:
    """The next state, after a human's word.

    Raises:
        AccessDenied: agents do not approve their own calls.
        ResourceConflict: it was decided before.
        ResourceNotFound: its time is over.
    """
    if (known.tenant, known.call_headers().agent) == (tenant, by):
        raise AccessDenied("an agent cannot decide on its own call", field="approval_id")
    if known.state != "pending":
        raise ResourceConflict(f"this call is {known.state} already", field="approval_id")
    if now_ms >= known.expires_ms:
        raise ResourceNotFound("this call has run out of time", field="approval_id")
    body = known.body if state == "approved" else ""
    return known.model_copy(update={"state": state, "decided_by": by, "reason": reason, "body": body})


def expired(known: Parked) -> Parked:
    """The next state of one nobody has answered in time, or nobody has run."""
    return known.model_copy(update={"state": "expired", "body": "", "sent_ms": 0})


def is_being_queued(known: Parked) -> bool:
    """Whether it may be on its way into the durable queue: who takes it out there must be told to end it."""
    return known.state == "approved" and known.durable


def cancelled(known: Parked) -> Parked:
    """The next state when its agent has no use for the call any more: it will not run.

    Raises:
        ResourceConflict: it has begun, or ended, or another must end it.
    """
    if known.state not in ("pending", "approved") or is_being_queued(known):
        raise ResourceConflict(f"this call is {known.state}")
    return known.model_copy(update={"state": "cancelled", "body": ""})


def sent(known: Parked, now_ms: int) -> Parked:
    """One whose call is sent to its manager now, or whose caller is told now."""
    return known.model_copy(update={"sent_ms": now_ms})


def told(known: Parked) -> Parked:
    """Its caller has been sent the end."""
    return known.model_copy(update={"told": True})


def redeemed(known: Parked, holder: str, now_ms: int) -> Parked | None:
    """The next state when one delivery wants to run the call; None where that delivery has redeemed it before.

    Raises:
        ResourceConflict: it is not to be run, or another delivery runs it.
    """
    if known.state == "released" and known.holder == holder:
        return None
    if known.state != "approved":
        raise ResourceConflict(f"this call is {known.state}")
    if now_ms >= run_until_ms(known):
        raise ResourceConflict("this call has run out of time")
    return known.model_copy(update={"state": "released", "holder": holder, "body": ""})


def run_until_ms(known: Parked) -> int:
    """Until when an approved call may begin, Unix milliseconds."""
    deadline_ms = known.call_headers().deadline_ms
    return known.expires_ms if deadline_ms is None else max(known.expires_ms, deadline_ms)


def due(known: Parked, now_ms: int) -> tuple[Action, int]:
    """What is to be done about it now, and when to look again (Unix milliseconds; 0 is never)."""
    again_ms = int(SEND_AGAIN_S * 1000)
    match known.state:
        case "pending":
            return ("expire", now_ms + again_ms) if now_ms >= known.expires_ms else ("nothing", known.expires_ms)
        case "approved":
            if now_ms >= run_until_ms(known):
                return "expire", now_ms + again_ms
            next_ms = known.sent_ms + again_ms
            return ("send", now_ms + again_ms) if now_ms >= next_ms else ("nothing", next_ms)
        case "denied" | "expired" | "cancelled":
            if known.told:
                return "nothing", 0
            next_ms = known.sent_ms + again_ms
            return ("tell", now_ms + again_ms) if now_ms >= next_ms else ("nothing", next_ms)
        case "released":
            return "nothing", 0


def refusal_of(known: Parked) -> AiosError:
    """What the caller is told of a call that a human refused, nobody answered, or its agent cancelled."""
    if known.state == "cancelled":
        return SyscallCancelled("the caller cancelled the call before it had begun")
    if known.state == "expired":
        asked = "nobody ran the approved call" if known.decided_by else "nobody answered"
        return ApprovalDenied(f"{known.operation} was not let pass: {asked} in time")
    reason = f": {known.reason}" if known.reason else ""
    return ApprovalDenied(f"{known.operation} was refused by {known.decided_by}{reason}")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A released call on its way to its manager."""

    headers: CallHeaders
    manager: str
    operation: str
    body: bytes


def outgoing(known: Parked, *, now_ms: int, default_deadline_ms: int) -> Outgoing:
    """An approved call as its manager gets it. A deadline the caller did not name counts from now on.

    Raises:
        InternalError: the stored call cannot be read.
    """
    try:
        headers, body = known.call_headers(), known.call_body()
    except (ValueError, TypeError) as error:
        raise InternalError("the parked call cannot be read") from error
    deadline_ms = headers.deadline_ms if known.keeps_deadline else now_ms + default_deadline_ms
    manager, _, operation = known.operation.partition(".")
    return Outgoing(replace(headers, approval=known.approval_id, deadline_ms=deadline_ms), manager, operation, body)
