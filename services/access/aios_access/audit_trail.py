"""What is written into the audit log about a call: who asked for what, what was decided and why, how it ended.

No contents: of a call's body only its size is kept, unless the installation is told to keep bodies. Of calls to access
itself the names in it are kept too: whom an operator created, revoked or let pass is what an audit is for.
"""

import time
from collections.abc import Mapping
from typing import Final, Protocol

import orjson
from pydantic import JsonValue

from aios_proto import subjects
from aios_proto.errors import AccessError, AiosError, ApprovalDenied, SyscallCancelled
from aios_proto.headers import CallHeaders
from aios_proto.kernel import CallEnd
from aios_proto.names import is_name
from aios_proto.subjects import SyscallSubject

_NAME_CHARS: Final = 64
_ABOUT: Final = ("tenant", "agent", "group", "operator", "approval_id", "scope", "name", "operation", "anchor")
_BODY_BYTES: Final = 65_536
_TEXT_CHARS: Final = 300
_REMEMBERED: Final = 16_384

Fields = dict[str, JsonValue]


class AuditSink(Protocol):
    """Where records go."""

    def record(self, tenant: str, fields: Mapping[str, JsonValue] | str) -> None:
        """Takes one record in, without waiting: its fields, or their JSON text up to the closing brace."""


class AuditTrail:
    """Words the records.

    Args:
        sink: where they go; None where no log is kept.
        by: this replica.
        contents: whether the bodies of all calls are kept too, up to 64 KiB each.
        refused_connections_per_s: how many refused connections a second are recorded; the others are counted.
    """

    def __init__(
        self, sink: AuditSink | None, by: str, *, contents: bool = False, refused_connections_per_s: int = 50
    ) -> None:
        self.sink = sink
        self._by = by
        self._contents = contents
        self._strangers_per_s = refused_connections_per_s
        self._strangers_second = 0
        self._strangers = 0
        self._strangers_left_out = 0
        self._repeated: dict[tuple[str, str, str, str, tuple[str, ...]], str] = {}

    def decided(
        self,
        headers: CallHeaders,
        operation: str,
        effect: str,
        policies: tuple[str, ...],
        body: bytes,
        trace_id: str | None,
        at_us: int,
    ) -> None:
        """A call may pass (`allow`), or waits for a human (`ask`).

        Args:
            headers: of the call; its id and its program are checked, so they stand in JSON as they are.
            operation: `<manager>.<operation>`.
            effect: what was decided.
            policies: those that decided.
            body: as sent.
            trace_id: 32 hex digits.
            at_us: Unix time in microseconds.
        """
        if self.sink is None:
            return
        about = (headers.agent, headers.group, operation, effect, policies)
        repeated = self._repeated.get(about)
        if repeated is None:
            if len(self._repeated) >= _REMEMBERED:
                self._repeated.clear()
            repeated = self._repeated[about] = self._repeat(*about)
        text = f'"at_us":{at_us},{repeated},"id":"{headers.id}","program":"{headers.program or ""}","bytes":{len(body)}'
        if trace_id is not None:
            text += f',"trace_id":"{trace_id}"'
        if headers.taint:
            text += f',"taint":{orjson.dumps(headers.taint).decode()}'
        if self._contents:
            text += f',"body":{orjson.dumps(_text(body[:_BODY_BYTES])).decode()}'
        elif operation.startswith("access."):
            text += f',"about":{orjson.dumps(_about(body)).decode()}'
        self.sink.record(headers.tenant, text + "}")

    def _repeat(self, agent: str, group: str, operation: str, effect: str, policies: tuple[str, ...]) -> str:
        """What the records of many calls have in common, as JSON without the braces."""
        fields: Fields = {
            "by": self._by,
            "kind": "decision",
            "effect": effect,
            "agent": agent,
            "group": group,
            "operation": operation,
        }
        if policies:
            fields["policies"] = list(policies)
        return orjson.dumps(fields)[1:-1].decode()

    def refused(self, subject: SyscallSubject, call_id: str, error: AiosError, size: int, trace_id: str | None) -> None:
        """A call does not pass, or could not be passed on."""
        if self.sink is None:
            return
        fields: Fields = {
            "at_us": time.time_ns() // 1000,
            "by": self._by,
            "kind": "decision",
            "effect": "deny" if isinstance(error, AccessError) else "refuse",
            "id": call_id,
            "agent": _name(subject.agent),
            "operation": _name(f"{subject.manager}.{subject.operation}"),
            "bytes": size,
            "code": error.code,
        }
        if error.field is not None:
            fields["field"] = _name(error.field)
        if trace_id is not None:
            fields["trace_id"] = trace_id
        self.sink.record(_chain_of(subject.tenant), fields)

    def ended(self, end: CallEnd) -> None:
        """A call has been answered for good."""
        tenant, agent, call_id = _parts(end.key)
        fields: Fields = {
            "at_us": end.at_us,
            "by": self._by,
            "kind": "end",
            "id": call_id,
            "agent": agent,
            "operation": end.operation,
            "code": end.code or "ok",
        }
        if end.program is not None:
            fields["program"] = end.program
        if end.untrusted:
            fields["untrusted"] = True
        if end.trace_id is not None:
            fields["trace_id"] = end.trace_id
        if self.sink is not None:
            self.sink.record(_chain_of(tenant), fields)

    def model_call_ended(self, key: str, code: str | None, tokens: Mapping[str, int]) -> None:
        """A worker or the scheduler has ended a model call; `tokens` is what it used."""
        tenant, agent, call_id = _parts(key)
        if self.sink is None:
            return
        fields: Fields = {
            "at_us": time.time_ns() // 1000,
            "by": self._by,
            "kind": "end",
            "id": call_id,
            "agent": agent,
            "code": code or "ok",
        }
        if tokens:
            fields["tokens"] = dict(tokens)
        self.sink.record(_chain_of(tenant), fields)

    def approval(
        self,
        headers: CallHeaders,
        approval_id: str,
        state: str,
        *,
        by_agent: str | None = None,
        reason: str | None = None,
    ) -> None:
        """A parked call has changed its state: see `ApprovalState`."""
        if self.sink is None:
            return
        fields: Fields = {
            "at_us": time.time_ns() // 1000,
            "by": self._by,
            "kind": "approval",
            "state": state,
            "approval_id": approval_id,
            "id": headers.id,
            "agent": headers.agent,
        }
        if by_agent is not None:
            fields["decided_by"] = by_agent
        if reason is not None:
            fields["reason"] = _name(reason, _TEXT_CHARS)
        if state in ("denied", "expired"):
            fields["code"] = ApprovalDenied.code
        elif state == "cancelled":
            fields["code"] = SyscallCancelled.code
        self.sink.record(_chain_of(headers.tenant), fields)

    def connected(self, tenant: str, agent: str, server_id: str, client_id: int) -> None:
        """An agent was let in."""
        if self.sink is None:
            return
        self.sink.record(
            _chain_of(tenant),
            {
                "at_us": time.time_ns() // 1000,
                "by": self._by,
                "kind": "connect",
                "agent": agent,
                "server": server_id,
                "client": client_id,
            },
        )

    def connection_refused(self, reason: str) -> None:
        """A client was not let in. Stands in the kernel's own log: a stranger's tenant is only what it says."""
        if self.sink is None:
            return
        now_us = time.time_ns() // 1000
        second = now_us // 1_000_000
        if second != self._strangers_second:
            self._strangers_second, self._strangers = second, 0
        self._strangers += 1
        if self._strangers > self._strangers_per_s:
            self._strangers_left_out += 1
            return
        fields: Fields = {
            "at_us": now_us,
            "by": self._by,
            "kind": "connect",
            "effect": "deny",
            "code": "access.unauthenticated",
            "reason": _name(reason, _TEXT_CHARS),
        }
        if self._strangers_left_out:
            fields["left_out"] = self._strangers_left_out
            self._strangers_left_out = 0
        self.sink.record(subjects.KERNEL_TENANT, fields)


def _chain_of(tenant: str) -> str:
    return tenant if is_name(tenant) else subjects.KERNEL_TENANT


def _parts(key: str) -> tuple[str, str, str]:
    tenant, _, rest = key.partition(".")
    agent, _, call_id = rest.partition(".")
    return tenant, _name(agent), _name(call_id)


def _name(text: str, most: int = _NAME_CHARS) -> str:
    return text[:most].encode("utf-8", "replace").decode()


def _about(body: bytes) -> Fields:
    """Whom and what a call to access names."""
    try:
        parsed = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(parsed, dict):
        return {}
    return {field: _name(value) for field in _ABOUT if isinstance(value := parsed.get(field), str)}


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")
