"""How a call that may pass goes on: to its manager, into the queue first, or to a human who must agree."""

import time
from collections import Counter
from dataclasses import replace

import orjson
from nats.errors import Error as NatsError
from nats.js.api import PubAck
from nats.js.errors import APIError, NoStreamResponseError

from aios_access.approval_service import ApprovalService
from aios_access.approvals import approval_id_of
from aios_access.audit_service import AuditService
from aios_access.core import Admitted
from aios_access.quota_service import QuotaService
from aios_access.refusing import Refusing
from aios_access.settings import AccessSettings
from aios_access.taint import Mark
from aios_access.taint_service import TaintService
from aios_kit import replies
from aios_kit.call_sender import CallSender
from aios_kit.service import Service
from aios_kit.tasks import Tasks
from aios_kit.tracing import Hop
from aios_proto import headers as wire
from aios_proto import subjects, telemetry
from aios_proto.errors import AiosError, BusUnavailable, QueueFull

_STREAM_FULL = 10077


class Passing:
    """Sends calls on.

    Args:
        service: the chassis.
        settings: how many at once, and what must be on disk before `accepted`.
        quotas: gets back what a call does not use after all.
        audit: gets every decision.
        taint: marks what calls take in.
        approvals: parks calls.
    """

    def __init__(
        self,
        service: Service,
        settings: AccessSettings,
        quotas: QuotaService,
        audit: AuditService,
        taint: TaintService,
        approvals: ApprovalService,
    ) -> None:
        self._service = service
        self._settings = settings
        self._quotas = quotas
        self._audit = audit
        self._taint = taint
        self._approvals = approvals
        self._refusing = Refusing(service, audit)
        self._durable = Tasks(settings.access_concurrency, service.log)
        self._held = Tasks(settings.access_concurrency, service.log)
        self._store_takes_calls = False
        self._sender: CallSender | None = None
        self._passed = Counter[str]()
        service.metrics.before_shown(self._count_passed)

    def open(self) -> None:
        """Sends on the service's connection from now on."""
        self._sender = CallSender(self._service.nc)

    async def drain(self, timeout_s: float) -> None:
        """Waits for the calls under way."""
        await self._held.drain(timeout_s)
        await self._durable.drain(timeout_s)

    async def pass_on(self, admitted: Admitted, body: bytes, hop: Hop, now_us: int) -> None:
        """Sends a call on; what must be stored first goes on in a task of its own.

        Args:
            admitted: the call.
            body: as sent.
            hop: the span; it ends with the hop.
            now_us: Unix time in microseconds.
        """
        asks = admitted.decision.effect == "ask"
        if asks:
            # What it would bring in, a human is yet to allow.
            labels, marks = self._taint.taint.of_call(admitted.headers), list[Mark]()
        else:
            labels, marks = self._taint.taint.marks_of(admitted.headers, admitted.operation, body)
        if labels:
            admitted = replace(admitted, headers=replace(admitted.headers, taint=labels))
            hop.set({telemetry.TAINT: ",".join(labels)})
        if marks or asks:
            await self._held.start(self._mark_or_park(admitted, marks, body, hop), "marks or parks")
        else:
            await self._forward(admitted, body, hop, now_us)

    async def _mark_or_park(self, admitted: Admitted, marks: list[Mark], body: bytes, hop: Hop) -> None:
        """Stores what the call taints before it can have an answer; parks it where a human must agree first."""
        headers = admitted.headers
        try:
            await self._taint.store(marks)
            if admitted.decision.effect != "ask":
                await self._forward(admitted, body, hop, time.time_ns() // 1000)
                return
            await self._approvals.park(admitted, body)
        except Exception as caught:
            error = caught if isinstance(caught, AiosError) else replies.internal("access")
            if error is not caught:
                self._service.log.exception("access failed", syscall_id=headers.id, trace_id=hop.trace_id)
            self._quotas.not_passed(admitted)
            await self._refusing.refuse_admitted(admitted, error, hop, len(body))
            return
        self._quotas.not_passed(admitted)  # it runs later or never; what it uses then is not known now
        self._account(admitted, body, hop, time.time_ns() // 1000)
        hop.set({telemetry.DECISION: "ask", telemetry.APPROVAL: approval_id_of(headers)})
        self._service.metrics.calls.labels(admitted.name, "parked").inc()
        hop.end()

    def _account(self, admitted: Admitted, body: bytes, hop: Hop, now_us: int) -> None:
        decision, trace_id = admitted.decision, hop.trace_id if hop.traceparent else None
        self._audit.trail.decided(
            admitted.headers, admitted.name, decision.effect, decision.policies, body, trace_id, now_us
        )

    async def _forward(self, admitted: Admitted, body: bytes, hop: Hop, now_us: int) -> None:
        self._account(admitted, body, hop, now_us)
        if admitted.durable:
            await self._forward_durably(admitted, body, hop)
            return
        assert self._sender is not None
        await self._sender.send(admitted.target, admitted.headers.to_text(hop.traceparent), body)
        self._passed[admitted.name] += 1
        if hop.recording:
            hop.end()

    async def _forward_durably(self, admitted: Admitted, body: bytes, hop: Hop) -> None:
        out = admitted.headers.to_wire()
        if hop.traceparent is not None:
            out[wire.TRACEPARENT] = hop.traceparent
        ahead = self._store_takes_calls
        if ahead:
            # The scheduler begins while the disk is being written to; it knows the stored call for the same one.
            ahead_of = {**out, wire.DURABILITY: "durable"}
            await self._service.lane.publish(admitted.target, body, headers=ahead_of)
        await self._durable.start(self._take_durably(admitted, out, body, hop, ahead=ahead), admitted.name)

    async def _take_durably(
        self, admitted: Admitted, out: dict[str, str], body: bytes, hop: Hop, *, ahead: bool
    ) -> None:
        headers, service = admitted.headers, self._service
        stored = await self._store(admitted, out, body, hop)
        self._store_takes_calls = not isinstance(stored, AiosError)
        if isinstance(stored, AiosError):
            error = stored
            if ahead:
                # It runs all the same; since it is never accepted, no more is promised than for a volatile call.
                service.log.warning("a call runs that is not stored", syscall_id=headers.id, error=error.message)
                service.metrics.calls.labels(admitted.name, error.code).inc()
                hop.end(error)
                return
            self._quotas.not_passed(admitted)
            await self._refusing.refuse_admitted(admitted, error, hop, len(body))
            return
        if self._settings.access_audit_before_accept:
            await self._audit.stored(headers.tenant)
        hop.event(telemetry.EVENT_ACCEPTED)
        await service.lane.reply(headers.reply, replies.accepted(headers.id, hop.trace_id))
        if stored.duplicate:
            # The same id again: it runs once and is answered here too.
            out.pop(wire.MSG_ID)
            attach = orjson.dumps({"id": headers.id})
            await service.lane.publish(subjects.kernel("syscall", "attach"), attach, headers=out)
        service.metrics.calls.labels(admitted.name, "ok").inc()
        hop.end()

    async def _store(self, admitted: Admitted, out: dict[str, str], body: bytes, hop: Hop) -> PubAck | AiosError:
        """Puts a call into the queue; what JetStream said, or why the call is not there."""
        headers, operation = admitted.headers, admitted.operation
        out[wire.MSG_ID] = headers.key
        try:
            return await self._service.js.publish(
                subjects.durable(operation.manager, operation.name),
                body,
                timeout=min(self._settings.request_timeout_s, max(0.001, seconds_to(headers.deadline_ms))),
                headers=out,
            )
        except APIError as refused:
            if refused.err_code == _STREAM_FULL:
                return QueueFull("the kernel holds as many open calls as it may", retry_after_s=1)
            return BusUnavailable(f"JetStream did not take the call: {refused.description}", retry_after_s=1)
        except (NoStreamResponseError, NatsError, TimeoutError):
            return BusUnavailable("JetStream did not take the call in time", retry_after_s=1)
        except Exception:
            self._service.log.exception("access failed", syscall_id=headers.id, trace_id=hop.trace_id)
            return replies.internal("access")

    def _count_passed(self) -> None:
        passed, self._passed = self._passed, Counter()
        for operation, calls in passed.items():
            self._service.metrics.calls.labels(operation, "ok").inc(calls)


def seconds_to(deadline_ms: int | None) -> float:
    """Seconds until a deadline; an hour where there is none."""
    return 3600.0 if deadline_ms is None else deadline_ms / 1000 - time.time()
