"""How the audit log is read by system calls: `access.audit.verify` and `access.audit.export`."""

import asyncio
from collections.abc import Awaitable, Callable

from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from aios_access.adapters.audit_stream import AuditWriter, read_batches
from aios_access.audit_chain import ChainVerifier, CheckSeal, Fault, Head
from aios_access.core import AccessCore
from aios_access.directory import Identity
from aios_kit.service import Call, Service
from aios_proto import subjects
from aios_proto.errors import BusUnavailable
from aios_proto.headers import CallHeaders
from aios_proto.messages.access import (
    AuditExportRequest,
    AuditExportResult,
    AuditVerifyRequest,
    AuditVerifyResult,
)

_PAGE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 18


class AuditOperations:
    """The handlers of these operations.

    Args:
        core: decides whose log may be read.
        caller: who makes a call.
        writer: what is waiting is stored before a log is read.
        check_seal: checks signatures; None where this installation signs nothing.
        keeps_all: whether the log has no age after which records are dropped.
    """

    def __init__(
        self,
        core: AccessCore,
        caller: Callable[[CallHeaders], Awaitable[Identity]],
        writer: Callable[[], AuditWriter],
        check_seal: CheckSeal | None,
        *,
        keeps_all: bool,
    ) -> None:
        self._core = core
        self._caller = caller
        self._writer = writer
        self._check_seal = check_seal
        self._keeps_all = keeps_all

    def serve_on(self, service: Service) -> None:
        """Registers the handlers."""
        self._service = service
        service.serve("access", "audit.verify", self._verify)
        service.serve("access", "audit.export", self._export)

    async def _verify(self, call: Call[AuditVerifyRequest]) -> AuditVerifyResult:
        tenant = readable_tenant(self._core, await self._caller(call.headers), call.body.tenant)
        await self._writer().stored(tenant)
        anchor = None if call.body.anchor is None else Head.parse(call.body.anchor)
        verifier = ChainVerifier(tenant, self._check_seal, sealed=self._check_seal is not None, anchor=anchor)
        await verify_stored(self._service.js, verifier, keeps_all=self._keeps_all)
        return verifier.verdict()

    async def _export(self, call: Call[AuditExportRequest]) -> AuditExportResult:
        tenant = readable_tenant(self._core, await self._caller(call.headers), call.body.tenant)
        if call.body.cursor == 0:
            await self._writer().stored(tenant)
        lines: list[bytes] = []
        size = 0
        async for batch in read_batches(self._service.js, tenant, call.body.cursor):
            lines.append(batch.lines)
            size += len(batch.lines)
            if size >= _PAGE_BYTES and batch.following:
                return AuditExportResult(lines=_text(lines), cursor=batch.stream_seq + 1)
        return AuditExportResult(lines=_text(lines))


def readable_tenant(core: AccessCore, caller: Identity, wanted: str | None) -> str:
    """Whose log a caller means; the root tenant's operators may also read the kernel's own.

    Raises:
        AccessDenied: it is another tenant's.
    """
    if wanted == subjects.KERNEL_TENANT:
        core.managed_tenant(caller, core.root_tenant)
        return wanted
    return core.managed_tenant(caller, wanted)


async def verify_stored(js: JetStreamContext, verifier: ChainVerifier, *, keeps_all: bool) -> None:
    """Feeds a tenant's stored log to a verifier; the hashing runs in a thread.

    Args:
        js: JetStream, with its timeout.
        verifier: of this tenant, fresh.
        keeps_all: whether a log that does not begin with its first record is at fault.

    Raises:
        BusUnavailable: the log cannot be read.
    """
    chunk: list[bytes] = []
    size = 0
    first = True
    async for batch in read_batches(js, verifier.tenant):
        if first and not keeps_all:
            _begin_behind_dropped(verifier, batch.lines)
        first = False
        chunk.append(batch.lines)
        size += len(batch.lines)
        if size >= _CHUNK_BYTES:
            await asyncio.to_thread(verifier.feed, b"".join(chunk))
            chunk, size = [], 0
    if chunk:
        await asyncio.to_thread(verifier.feed, b"".join(chunk))
    try:
        state = (await js.stream_info(subjects.AUDIT_STREAM)).state
    except (NatsError, TimeoutError) as error:
        raise BusUnavailable("the audit log cannot be read", retry_after_s=1) from error
    if state.num_deleted:
        verifier.note(Fault(verifier.head.seq, "deleted", f"the stream has lost {state.num_deleted} messages"))
    verifier.end()


def _begin_behind_dropped(verifier: ChainVerifier, batch: bytes) -> None:
    """Lets the chain begin where the oldest record that is kept says that it does."""
    head = ChainVerifier.before(batch)
    if head is not None:
        verifier.head = head


def _text(lines: list[bytes]) -> str:
    return b"".join(lines).decode("utf-8", "replace")
