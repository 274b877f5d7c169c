"""The audit log on the bus: opens its stream, hears how calls ended, and answers `access.audit.*`."""

from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from pydantic import ValidationError

from aios_access.adapters.audit_stream import AuditWriter, audit_stream, open_audit_stream
from aios_access.audit_operations import AuditOperations
from aios_access.audit_seal import Sealer, trusting
from aios_access.audit_trail import AuditTrail
from aios_access.core import AccessCore
from aios_access.directory import Identity
from aios_access.settings import AccessSettings
from aios_kit.service import Service
from aios_proto import subjects
from aios_proto.errors import BusUnavailable
from aios_proto.headers import CallHeaders
from aios_proto.kernel import CallEnd, CallEnded, CallFact, DecisionFact

_QUEUE = "access-audit"
_ENDS = ("syscall.completed", "syscall.failed")
_ENDED = b'{"type":"ended"'
_CLOSE_S = 5.0


class AuditService:
    """What the rest of access has of the audit log.

    Attributes:
        trail: words the records; before `open` it drops them.
    """

    def __init__(
        self,
        service: Service,
        settings: AccessSettings,
        core: AccessCore,
        caller: Callable[[CallHeaders], Awaitable[Identity]],
    ) -> None:
        self._service = service
        self._settings = settings
        self._writer: AuditWriter | None = None
        self._heard: list[Callable[[CallEnd], None]] = []
        seed = None if settings.access_issuer_file is None else settings.access_issuer_file.read_text()
        self._sealer = None if seed is None else Sealer(seed, settings.instance)
        self.trail = AuditTrail(None, settings.instance, contents=settings.access_audit_contents)
        keys = {*settings.access_audit_keys, *(() if self._sealer is None else (self._sealer.public,))}
        check = trusting(keys) if keys else None
        keeps_all = settings.access_audit_max_age_s == 0
        AuditOperations(core, caller, lambda: self.writer, check, keeps_all=keeps_all).serve_on(service)

    @property
    def writer(self) -> AuditWriter:
        """Stores records; only after `open`."""
        if self._writer is None:
            msg = "the audit log is not open yet"
            raise RuntimeError(msg)
        return self._writer

    def on_end(self, heard: Callable[[CallEnd], None]) -> None:
        """Calls `heard` with each end of a manager's call that this replica takes in; others take in the others."""
        self._heard.append(heard)

    async def open(self) -> None:
        """Opens the log and begins to listen."""
        settings, service = self._settings, self._service
        config = audit_stream(settings.jetstream_replicas, settings.access_audit_max_age_s)
        await open_audit_stream(service.js, config, service.log)
        writer = AuditWriter(
            service.js,
            self._sealer,
            service.log,
            linger_s=settings.access_audit_linger_s,
            capacity=settings.access_audit_capacity,
            say_overtaken=self._say_overtaken,
        )
        writer.open()
        self._writer = self.trail.sink = writer
        await service.lane.subscribe(subjects.AUDIT_OVERTAKEN, self._on_overtaken)
        await service.lane.subscribe(subjects.CALL_ENDED, self._on_call_end, queue=_QUEUE)
        await service.lane.subscribe(subjects.ALL_WORKER_REPORTS, self._on_worker_report, queue=_QUEUE)
        await service.lane.subscribe(subjects.ALL_REFUSALS, self._on_refusal, queue=_QUEUE)
        await service.lane.subscribe(subjects.ALL_ENDS, self._on_fact, queue=_QUEUE)

    async def close(self) -> None:
        """Stores what is left."""
        if self._writer is not None:
            await self._writer.close(_CLOSE_S)

    def ensure_room(self) -> None:
        """Refuses a call that could not be accounted for.

        Raises:
            BusUnavailable: as many records wait for the bus as may.
        """
        if self._writer is not None and self._writer.full:
            raise BusUnavailable("the audit log cannot be written, so no call is let in", retry_after_s=1)

    async def stored(self, tenant: str) -> None:
        """Returns when all that was recorded for a tenant is on disk."""
        if self._writer is not None:
            await self._writer.stored(tenant)

    async def _say_overtaken(self, tenant: str) -> None:
        await self._service.lane.reply(subjects.AUDIT_OVERTAKEN, f"{self._settings.instance} {tenant}".encode())

    async def _on_overtaken(self, message: Msg) -> None:
        by, _, tenant = message.data.decode("utf-8", "replace").partition(" ")
        if by != self._settings.instance:
            self.writer.let_others_first(tenant)

    async def _on_call_end(self, message: Msg) -> None:
        try:
            end = CallEnd.model_validate_json(message.data)
        except ValidationError as error:
            self._service.log.warning("the end of a call could not be read", error=str(error))
            return
        self._take_end(end)

    async def _on_fact(self, message: Msg) -> None:
        """The end of a call whose manager publishes a fact about it; denials are recorded where they are decided."""
        _, _, tenant, kind = message.subject.split(".", 3)
        if kind not in _ENDS:
            return
        try:
            fact = CallFact.model_validate_json(message.data)
        except ValidationError as error:
            self._service.log.warning("a fact about a call could not be read", error=str(error))
            return
        self._take_end(
            CallEnd(
                key=f"{tenant}.{fact.agent}.{fact.id}",
                operation=fact.operation,
                code=fact.code,
                program=fact.program,
                trace_id=fact.trace_id,
                at_us=fact.at_ms * 1000,
            )
        )

    def _take_end(self, end: CallEnd) -> None:
        self.trail.ended(end)
        for heard in self._heard:
            heard(end)

    async def _on_worker_report(self, message: Msg) -> None:
        if not message.data.startswith(_ENDED):
            return
        try:
            report = CallEnded.model_validate_json(message.data)
        except ValidationError as error:
            self._service.log.warning("a worker's report could not be read", error=str(error))
            return
        usage = report.usage
        code = None if report.outcome == "done" else report.code or report.outcome
        self.trail.model_call_ended(report.key, code, {} if usage is None else usage.model_dump(exclude_defaults=True))

    async def _on_refusal(self, message: Msg) -> None:
        try:
            fact = DecisionFact.model_validate_json(message.data)
        except ValidationError as error:
            self._service.log.warning("a scheduler's fact could not be read", error=str(error))
            return
        tenant = message.subject.split(".", 3)[2]
        self.trail.model_call_ended(f"{tenant}.{fact.agent}.{fact.id}", fact.code, {})
