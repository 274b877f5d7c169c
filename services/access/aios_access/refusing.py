"""How a call is refused: an error frame to its caller, a record in the audit log, a fact where it was not allowed."""

import time

from aios_access.audit_service import AuditService
from aios_access.core import Admitted
from aios_kit import replies
from aios_kit.service import Service
from aios_kit.tracing import Hop
from aios_proto import subjects
from aios_proto.errors import AccessDenied, AiosError, ReplyForbidden
from aios_proto.kernel import CallFact
from aios_proto.operations import OPERATIONS
from aios_proto.subjects import SyscallSubject

_REFUSED_REPLY = "refused"


class Refusing:
    """Refuses calls.

    Args:
        service: the chassis.
        audit: gets every refusal.
    """

    def __init__(self, service: Service, audit: AuditService) -> None:
        self._service = service
        self._audit = audit

    async def refuse_admitted(self, admitted: Admitted, error: AiosError, hop: Hop, size: int) -> None:
        """Refuses a call that might have passed, had something not failed after it was decided on."""
        headers, operation = admitted.headers, admitted.operation
        subject = SyscallSubject(headers.tenant, headers.agent, operation.manager, operation.name)
        await self.refuse(subject, headers.reply, headers.id, error, hop, size)

    async def refuse(
        self, subject: SyscallSubject, reply: str, call_id: str, error: AiosError, hop: Hop, size: int
    ) -> None:
        """Refuses a call.

        Args:
            subject: of the call.
            reply: where its caller wants its frames.
            call_id: as far as it could be read.
            error: why.
            hop: the span, which ends here.
            size: bytes of the body.
        """
        self._audit.trail.refused(subject, call_id, error, size, hop.trace_id)
        if isinstance(error, ReplyForbidden):
            # Answering where the caller pointed would make access its accomplice.
            reply = f"{subjects.inbox_prefix(subject.tenant, subject.agent)}.{_REFUSED_REPLY}"
        lane = self._service.lane
        await lane.reply(reply, replies.failed(call_id, error, trace_id=hop.trace_id))
        known = (subject.manager, subject.operation) in OPERATIONS
        operation = f"{subject.manager}.{subject.operation}" if known else "unknown"
        self._service.metrics.calls.labels(operation, error.code).inc()
        if isinstance(error, AccessDenied | ReplyForbidden):
            fact = CallFact(
                id=call_id,
                agent=subject.agent,
                operation=operation,
                code=error.code,
                trace_id=hop.trace_id,
                at_ms=time.time_ns() // 1_000_000,
            )
            denied = subjects.event(subject.tenant, "syscall.denied")
            await lane.reply(denied, fact.model_dump_json(exclude_none=True).encode())
        hop.end(error)
