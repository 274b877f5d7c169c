"""What is sent for a call: its subject, headers and body, checked before they leave."""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypedDict

import orjson
from pydantic import BaseModel, JsonValue

from aios_proto import headers, subjects
from aios_proto.decode import decode
from aios_proto.errors import InvalidRequest, RequestTooLarge
from aios_proto.ids import new_syscall_id
from aios_proto.limits import MAX_BODY_BYTES
from aios_proto.operations import OPERATIONS

DEFAULT_DEADLINE_S: Final = 120.0


class HasId(Protocol):
    """Anything that names a call, such as a `Call`."""

    @property
    def id(self) -> str:
        """The call's id."""


class CallOptions(TypedDict, total=False):
    """What can be said about any call, whatever it asks for.

    Keys:
        priority: 0 (lowest) to 9 (highest); 5 by default.
        deadline_s: seconds from now after which the answer is of no use; 120 by default.
        durability: `durable` survives a restart of the bus, `volatile` is quicker; by default the operation's own.
        after: calls, or ids of calls, that must end first.
        context: name of a context the call works on.
        id: names the call; by default a fresh ULID. The same id sent twice runs once.
        program: the agent run the call belongs to; by default the agent's own, see `Agent`.
    """

    priority: int
    deadline_s: float
    durability: headers.Durability | None
    after: Sequence[str | HasId]
    context: str | None
    id: str | None
    program: str | None


CALL_OPTIONS: Final = frozenset(CallOptions.__annotations__)

_OPTION_OF_HEADER: Final = {
    headers.ID: "id",
    headers.PROGRAM: "program",
    headers.PRIORITY: "priority",
    headers.DEADLINE: "deadline_s",
    headers.AFTER: "after",
    headers.CONTEXT: "context",
    headers.DURABILITY: "durability",
}


_CHECKED_OPTIONS: Final = frozenset({"id", "program", "priority", "after", "context", "durability"})

_subject = functools.lru_cache(maxsize=256)(subjects.syscall)


@dataclass(frozen=True, slots=True)
class Request:
    """A call as it is sent.

    Attributes:
        call_id: the value of `Aios-Id`.
        operation: manager and operation, such as `llm.chat`.
        subject: where it is published.
        headers: as sent, without trace context.
        body: JSON.
        deadline_s: seconds the caller gives it, from now.
    """

    call_id: str
    operation: str
    subject: str
    headers: Mapping[str, str]
    body: bytes
    deadline_s: float


def make_request(
    tenant: str,
    agent: str,
    manager: str,
    operation: str,
    body: Mapping[str, object] | BaseModel | None,
    options: CallOptions,
    *,
    program: str,
    check: bool,
) -> Request:
    """Builds a call.

    Args:
        tenant: of the caller.
        agent: the caller.
        manager: who is called.
        operation: what is asked.
        body: a JSON object; keys whose value is None are left out.
        options: see `CallOptions`.
        program: what the call belongs to if the options name no program; a legal name.
        check: whether the body is checked against the operation's own model here, and not only by the kernel.

    Raises:
        InvalidRequest: an option or a field of the body is wrong; `field` names it.
        RequestTooLarge: the body has more than 1 MiB.
    """
    deadline_s = options.get("deadline_s", DEFAULT_DEADLINE_S)
    if not 0 < deadline_s < 1e9:
        raise InvalidRequest("deadline_s must be a positive number of seconds", field="deadline_s")
    try:
        subject = _subject(tenant, agent, manager, operation)
    except ValueError as error:
        raise InvalidRequest(str(error), field="operation") from error
    wire = _wire_headers(options, program, deadline_s)
    data = _encode(body)
    if check:
        decode(OPERATIONS[(manager, operation)].request, data)
    return Request(wire[headers.ID], f"{manager}.{operation}", subject, wire, data, deadline_s)


def _wire_headers(options: CallOptions, program: str, deadline_s: float) -> dict[str, str]:
    call_id, own_program = options.get("id"), options.get("program")
    call = headers.CallHeaders(
        id=new_syscall_id() if call_id is None else call_id,
        program=program if own_program is None else own_program,
        priority=options.get("priority", headers.DEFAULT_PRIORITY),
        deadline_ms=int((time.time() + deadline_s) * 1000),
        after=tuple(entry if isinstance(entry, str) else entry.id for entry in options.get("after") or ()),
        context=options.get("context"),
        durability=options.get("durability"),
    )
    wire = call.to_wire()
    if not options.keys() & _CHECKED_OPTIONS:
        return wire
    try:
        headers.from_agent(wire)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, field=_OPTION_OF_HEADER.get(error.field or "", error.field)) from error
    return wire


def _encode(body: Mapping[str, object] | BaseModel | None) -> bytes:
    if body is None:
        return b"{}"
    fields = body.model_dump(mode="json", exclude_none=True) if isinstance(body, BaseModel) else body
    try:
        data = orjson.dumps({key: value for key, value in fields.items() if value is not None}, default=_plain)
    except TypeError as error:
        raise InvalidRequest(f"the body cannot be written as JSON: {error}", field="body") from error
    if len(data) > MAX_BODY_BYTES:
        raise RequestTooLarge(
            f"the body has {len(data)} bytes, at most {MAX_BODY_BYTES} may be sent; put large content into storage",
            field="body",
        )
    return data


def _plain(value: object) -> JsonValue:
    if isinstance(value, BaseModel):
        plain: JsonValue = value.model_dump(mode="json", exclude_none=True)
        return plain
    raise TypeError(f"{type(value).__name__} is not JSON")
