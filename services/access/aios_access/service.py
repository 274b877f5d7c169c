"""The access manager on the bus: takes system calls in, lets them pass or refuses them, answers the auth callout."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

import orjson
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NoStreamResponseError
from opentelemetry.trace import SpanKind
from prometheus_client import Counter
from pydantic import ValidationError

from aios_access.adapters.bus_connections import BusConnections
from aios_access.adapters.kv_agent_store import KvAgentStore, read_bootstrap
from aios_access.approval_service import ApprovalService
from aios_access.approvals import approval_id_of
from aios_access.audit_service import AuditService
from aios_access.callout import SERVER_XKEY_HEADER, AuthCallout, AuthRequest
from aios_access.core import AccessCore, Admitted
from aios_access.directory import Directory, Identity
from aios_access.management import Management
from aios_access.nats_jwt import Issuer, NotAJwt, Xkey
from aios_access.policies import Policies
from aios_access.policy_management import PolicyManagement
from aios_access.presence import PresenceTable
from aios_access.quota_guard import Charge
from aios_access.quota_service import QuotaService
from aios_access.settings import AccessSettings
from aios_access.stores import Stores
from aios_access.taint import Mark
from aios_access.taint_service import TaintService
from aios_kit import replies
from aios_kit.service import Service
from aios_kit.streams import agents_bucket, ensure_bucket, ensure_stream, events_stream, syscalls_stream
from aios_kit.tasks import Tasks
from aios_kit.tracing import Hop
from aios_proto import headers as wire
from aios_proto import subjects, telemetry
from aios_proto.errors import (
    AccessDenied,
    AiosError,
    BusUnavailable,
    DeadlineExceeded,
    QueueFull,
    ReplyForbidden,
    ResourceConflict,
)
from aios_proto.kernel import PRESENCE_INTERVAL_S, CallFact, Presence
from aios_proto.names import is_syscall_id
from aios_proto.operations import OPERATIONS
from aios_proto.subjects import SyscallSubject

UNREADABLE_ID = "unreadable"
"""The id in the error frame of a call whose own id could not be read."""

_REFUSED_REPLY = "refused"
_CALLOUT_QUEUE = "access-callout"
_STREAM_FULL = 10077
_TARGETS = {each.full_name: subjects.kernel(each.manager, each.name) for each in OPERATIONS.values()}
_LOOKUPS_AT_ONCE = 64
_MAX_WAITING = 4096
# The server waits three seconds for the answer to a callout.
_LOOKUP_TIMEOUT_S = 2.0
_WATCH_AGAIN_S = 0.2
# Every live service has been heard of once when this has passed.
_LISTEN_FIRST_S = PRESENCE_INTERVAL_S * 1.2


class AccessService:
    """Wires the core to the bus."""

    def __init__(self, settings: AccessSettings) -> None:
        self.settings = settings
        self.service = Service("access", settings)
        self.directory = Directory(self._cut_off)
        self._connections = BusConnections(
            lambda: self.service.nc, self.directory.has, self.service.log, settings.request_timeout_s
        )
        self.presence = PresenceTable()
        self.core = AccessCore(
            self.directory,
            Policies(settings.access_groups),
            self.presence,
            default_deadline_s=settings.access_default_deadline_s,
            max_deadline_s=settings.access_max_deadline_s,
            root_tenant=settings.access_root_tenant,
        )
        self.audit = AuditService(self.service, settings, self.core, self._caller)
        self.taint = TaintService(self.service, settings, self.core)
        self.approvals = ApprovalService(self.service, settings, self.core, self._caller, self.audit, self.taint.passed)
        self._callout = self._make_callout()
        self._passed: dict[str, Counter] = {}
        self._durable = Tasks(settings.access_concurrency, self.service.log)
        self._held = Tasks(settings.access_concurrency, self.service.log)
        self._waiting = Tasks(_MAX_WAITING, self.service.log)
        self._store_takes_calls = False
        self._lookups = Tasks(_LOOKUPS_AT_ONCE, self.service.log)
        self._store: KvAgentStore | None = None
        self._stores: Stores | None = None
        self._watch: asyncio.Task[None] | None = None
        self._loaded = asyncio.Event()
        self.service.on_start(self._start)
        self.service.on_reconnect(self._reconnected)
        self.service.on_drain(self._drain)
        self.service.on_stop(self._stop)
        Management(self.core, self._caller, lambda: self.store, self._forget_tenant).serve_on(self.service)
        self.quotas = QuotaService(self.service, settings, self.core, self._caller, lambda: self.stores)
        PolicyManagement(self.core, self._caller, lambda: self.stores.policies).serve_on(self.service)

    @property
    def store(self) -> KvAgentStore:
        """Where identities are kept; only after the start."""
        if self._store is None:
            msg = "the service is not connected yet"
            raise RuntimeError(msg)
        return self._store

    @property
    def stores(self) -> Stores:
        """Where policies and quotas are kept; only after the start."""
        if self._stores is None:
            msg = "the service is not connected yet"
            raise RuntimeError(msg)
        return self._stores

    async def _forget_tenant(self, tenant: str) -> None:
        await self.stores.forget(tenant)

    async def _caller(self, headers: wire.CallHeaders) -> Identity:
        if self.directory.find(headers.tenant, headers.agent) is None:
            await self.store.refresh(f"{headers.tenant}.{headers.agent}")
        identity = self.directory.find(headers.tenant, headers.agent)
        if identity is None:
            raise AccessDenied("this agent's credential has been revoked")
        return identity

    def _make_callout(self) -> AuthCallout | None:
        if self.settings.access_issuer_file is None:
            return None
        xkey = self.settings.access_xkey_file
        return AuthCallout(
            self.directory,
            Issuer(self.settings.access_issuer_file.read_text()),
            None if xkey is None else Xkey(xkey.read_text()),
        )

    async def _start(self) -> None:
        service, replicas = self.service, self.settings.jetstream_replicas
        await service.lane.subscribe(subjects.ALL_PRESENCE, self._on_presence)
        listening_since = time.monotonic()
        bucket = await ensure_bucket(service.js, agents_bucket(replicas))
        self._store = KvAgentStore(service.js, bucket, self.directory, service.log)
        await ensure_stream(service.js, syscalls_stream(replicas))
        await ensure_stream(service.js, events_stream(replicas))
        await self.audit.open()
        await self.taint.open()
        await self.approvals.open()
        self._stores = await Stores.open(service.js, replicas, self.core.policies, self.quotas.quotas, service.log)
        await self._stores.start(self.settings.request_timeout_s)
        await self.quotas.open(self._stores)
        await self._restart_watch()
        await asyncio.wait_for(self._loaded.wait(), self.settings.request_timeout_s)
        await self._bootstrap()
        if self._callout is not None:
            self._connections.cut_strangers()
            await service.lane.subscribe(subjects.AUTH_CALLOUT, self._on_callout, queue=_CALLOUT_QUEUE)
        await asyncio.sleep(max(0.0, listening_since + _LISTEN_FIRST_S - time.monotonic()))
        await service.lane.subscribe(subjects.ALL_SYSCALLS, self._on_syscall, queue=subjects.SYSCALL_QUEUE_GROUP)

    async def _bootstrap(self) -> None:
        if self.settings.access_bootstrap_file is None:
            return
        for identity in read_bootstrap(self.settings.access_bootstrap_file):
            if self.store.applied(identity.key) == identity.origin:
                continue  # what was rotated or revoked since stays so
            known = self.directory.find(identity.tenant, identity.agent)
            with suppress(ResourceConflict):  # another replica was faster
                if known is None:
                    await self.store.create(identity)
                else:
                    await self.store.replace(identity)

    async def _restart_watch(self) -> None:
        await self._end_watch()
        self._watch = asyncio.create_task(self._keep_watching(), name="watch agents")

    async def _keep_watching(self) -> None:
        while True:
            try:
                await self.store.watch(self._loaded.set)
            except (NatsError, TimeoutError) as error:
                self.service.log.warning("the store of identities cannot be watched yet", error=str(error))
            await asyncio.sleep(_WATCH_AGAIN_S)

    async def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait((self._watch,))

    async def _reconnected(self) -> None:
        self.presence.refresh(time.monotonic())
        await self.taint.restart()
        await self.approvals.restart()
        if self._store is not None:
            await self._restart_watch()
        if self._stores is not None:
            await self._stores.restart()

    async def _drain(self) -> None:
        await self._lookups.drain(_LOOKUP_TIMEOUT_S)
        await self._waiting.drain(self.settings.request_timeout_s)
        await self._held.drain(self.settings.request_timeout_s)
        await self._durable.drain(self.settings.request_timeout_s)

    async def _stop(self) -> None:
        await self._end_watch()
        await self._connections.close()
        if self._stores is not None:
            await self.quotas.close()
            await self._stores.stop()
        await self.taint.close()
        await self.approvals.close()
        await self.audit.close()

    async def _on_presence(self, message: Msg) -> None:
        with suppress(ValidationError):
            self.presence.heard(Presence.model_validate_json(message.data), time.monotonic())

    async def _on_callout(self, message: Msg) -> None:
        if self._callout is None:
            return
        try:
            request = self._callout.read(message.data, (message.headers or {}).get(SERVER_XKEY_HEADER))
        except NotAJwt as error:
            self.service.log.warning("an auth request could not be read", error=str(error))
            return
        unknown = self._callout.unknown_agent(request)
        if unknown is None:
            await self._answer_callout(self._callout, request, message.reply)
        else:
            await self._lookups.start(self._look_up_client(self._callout, request, message.reply, unknown), "callout")

    async def _look_up_client(self, callout: AuthCallout, request: AuthRequest, reply: str, key: str) -> None:
        await self._look_up(key)
        await self._answer_callout(callout, request, reply)

    async def _look_up(self, key: str) -> None:
        """Asks the store for an agent that is not known: another replica may have created it a moment ago."""
        try:
            async with asyncio.timeout(_LOOKUP_TIMEOUT_S):
                await self.store.refresh(key)
        except (BusUnavailable, TimeoutError) as error:
            self.service.log.warning("an agent could not be looked up", key=key, error=str(error))

    async def _answer_callout(self, callout: AuthCallout, request: AuthRequest, reply: str) -> None:
        answer, refusal = callout.answer(request)
        if refusal is not None:
            self.service.log.info("a client was refused", reason=refusal)
            self.audit.trail.connection_refused(refusal)
        await self.service.lane.reply(reply, answer)

    def _cut_off(self, agent: str) -> None:
        """An agent is no more: its connections go too. Without this they would live on, each call denied."""
        self._connections.cut(agent)

    async def _on_syscall(self, message: Msg) -> None:
        subject = _parse_syscall(message.subject)
        if subject is None:
            return
        wanted = self.taint.must_look(subject, message.headers, message.data)
        if wanted or self.directory.find(subject.tenant, subject.agent) is None:
            await self._lookups.start(self._look_up_caller(subject, message, wanted), "caller")
        else:
            await self._decide(subject, message)

    async def _look_up_caller(self, subject: SyscallSubject, message: Msg, wanted: list[str]) -> None:
        if self.directory.find(subject.tenant, subject.agent) is None:
            await self._look_up(f"{subject.tenant}.{subject.agent}")
        unread: BusUnavailable | None = None
        try:
            await self.taint.look(wanted)
        except BusUnavailable as error:
            unread = error
        await self._decide(subject, message, unread)

    async def _decide(self, subject: SyscallSubject, message: Msg, unread: BusUnavailable | None = None) -> None:
        """Decides on a call; `unread` is why something could not be read without which nothing may be allowed."""
        now_us = time.time_ns() // 1000
        call_id = _readable_id(message)
        hop = self.service.tracing.hop(
            telemetry.SPAN_ACCESS,
            (message.headers or {}).get(wire.TRACEPARENT),
            kind=SpanKind.SERVER,
        )
        if hop.recording:
            hop.set(
                {
                    telemetry.SYSCALL_ID: call_id,
                    telemetry.TENANT: subject.tenant,
                    telemetry.AGENT: subject.agent,
                    telemetry.SYSCALL_OPERATION: f"{subject.manager}.{subject.operation}"[:64],
                }
            )
        try:
            self.audit.ensure_room()
            admitted = self.core.admit(subject, message.reply, message.headers, message.data, now_us, time.monotonic())
            if unread is not None:
                raise unread
            charge = self.quotas.charge(admitted, message.data, now_us, crowded=len(self._waiting) >= _MAX_WAITING)
        except AiosError as error:
            await self._refuse(subject, message.reply, call_id, error, hop, len(message.data))
            return
        except Exception:
            self.service.log.exception("access failed", syscall_id=call_id, trace_id=hop.trace_id)
            await self._refuse(subject, message.reply, call_id, replies.internal("access"), hop, len(message.data))
            return
        if charge is None or charge.complete:
            await self._pass_on(admitted, message.data, hop)
        else:
            await self._waiting.start(self._pass_on_when_due(admitted, charge, message.data, hop), "waits for quota")

    async def _pass_on_when_due(self, admitted: Admitted, charge: Charge, body: bytes, hop: Hop) -> None:
        headers, operation = admitted.headers, admitted.operation
        try:
            async with asyncio.timeout(max(0.001, _seconds_to(headers.deadline_ms))):
                await self.quotas.guard.wait(charge)
        except TimeoutError:
            error: AiosError = DeadlineExceeded("the deadline passed while the call waited for its quota")
        except AiosError as refused:
            error = refused
        else:
            await self._pass_on(admitted, body, hop)
            return
        subject = SyscallSubject(headers.tenant, headers.agent, operation.manager, operation.name)
        await self._refuse(subject, headers.reply, headers.id, error, hop, len(body))

    async def _pass_on(self, admitted: Admitted, body: bytes, hop: Hop) -> None:
        headers, asks = admitted.headers, admitted.decision.effect == "ask"
        if asks:
            # What it would bring in, a human is yet to allow.
            labels, marks = self.taint.taint.of_call(headers), list[Mark]()
        else:
            labels, marks = self.taint.taint.marks_of(headers, admitted.operation, body)
        if labels:
            admitted = replace(admitted, headers=replace(headers, taint=labels))
            hop.set({telemetry.TAINT: ",".join(labels)})
        if marks or asks:
            await self._held.start(self._mark_or_park(admitted, marks, body, hop), "marks or parks")
        else:
            await self._forward(admitted, body, hop)

    async def _mark_or_park(self, admitted: Admitted, marks: list[Mark], body: bytes, hop: Hop) -> None:
        """Stores what the call taints before it can have an answer; parks it where a human must agree first."""
        headers, operation = admitted.headers, admitted.operation
        try:
            await self.taint.store(marks)
            if admitted.decision.effect != "ask":
                await self._forward(admitted, body, hop)
                return
            await self.approvals.park(admitted, body)
        except Exception as caught:
            error = caught if isinstance(caught, AiosError) else replies.internal("access")
            if error is not caught:
                self.service.log.exception("access failed", syscall_id=headers.id, trace_id=hop.trace_id)
            self.quotas.not_passed(admitted)
            subject = SyscallSubject(headers.tenant, headers.agent, operation.manager, operation.name)
            await self._refuse(subject, headers.reply, headers.id, error, hop, len(body))
            return
        self.quotas.not_passed(admitted)  # it runs later or never; what it uses then is not known now
        self._account(admitted, body, hop)
        hop.set({telemetry.DECISION: "ask", telemetry.APPROVAL: approval_id_of(headers)})
        self.service.metrics.calls.labels(operation.full_name, "parked").inc()
        hop.end()

    def _account(self, admitted: Admitted, body: bytes, hop: Hop) -> None:
        name, decision = admitted.operation.full_name, admitted.decision
        self.audit.trail.decided(admitted.headers, name, decision.effect, decision.policies, body, hop.trace_id)

    async def _forward(self, admitted: Admitted, body: bytes, hop: Hop) -> None:
        name = admitted.operation.full_name
        self._account(admitted, body, hop)
        out = admitted.headers.to_wire()
        if hop.traceparent is not None:
            out[wire.TRACEPARENT] = hop.traceparent
        target = _TARGETS[name]
        if admitted.durable:
            ahead = self._store_takes_calls
            if ahead:
                # The scheduler begins while the disk is being written to; it knows the stored call for the same one.
                await self.service.lane.publish(target, body, headers={**out, wire.DURABILITY: "durable"})
            await self._durable.start(self._take_durably(admitted, out, body, hop, ahead=ahead), name)
            return
        await self.service.lane.publish(target, body, headers=out)
        self._count_passed(name)
        hop.end()

    def _count_passed(self, operation: str) -> None:
        counter = self._passed.get(operation)
        if counter is None:
            counter = self._passed[operation] = self.service.metrics.calls.labels(operation, "ok")
        counter.inc()

    async def _take_durably(
        self, admitted: Admitted, out: dict[str, str], body: bytes, hop: Hop, *, ahead: bool
    ) -> None:
        headers, operation = admitted.headers, admitted.operation
        error: AiosError | None = None
        out[wire.MSG_ID] = headers.key
        try:
            ack = await self.service.js.publish(
                subjects.durable(operation.manager, operation.name),
                body,
                timeout=min(self.settings.request_timeout_s, max(0.001, _seconds_to(headers.deadline_ms))),
                headers=out,
            )
        except APIError as refused:
            if refused.err_code == _STREAM_FULL:
                error = QueueFull("the kernel holds as many open calls as it may", retry_after_s=1)
            else:
                error = BusUnavailable(f"JetStream did not take the call: {refused.description}", retry_after_s=1)
        except (NoStreamResponseError, NatsError, TimeoutError):
            error = BusUnavailable("JetStream did not take the call in time", retry_after_s=1)
        except Exception:
            self.service.log.exception("access failed", syscall_id=headers.id, trace_id=hop.trace_id)
            error = replies.internal("access")
        self._store_takes_calls = error is None
        if error is not None and ahead:
            # It runs all the same; since it is never accepted, no more is promised than for a volatile call.
            self.service.log.warning("a call runs that is not stored", syscall_id=headers.id, error=error.message)
            self.service.metrics.calls.labels(operation.full_name, error.code).inc()
            hop.end(error)
            return
        if error is not None:
            self.quotas.not_passed(admitted)
            subject = SyscallSubject(headers.tenant, headers.agent, operation.manager, operation.name)
            await self._refuse(subject, headers.reply, headers.id, error, hop, len(body))
            return
        if self.settings.access_audit_before_accept:
            await self.audit.stored(headers.tenant)
        hop.event(telemetry.EVENT_ACCEPTED)
        await self.service.lane.reply(headers.reply, replies.accepted(headers.id, hop.trace_id))
        if ack.duplicate:
            # The same id again: it runs once and is answered here too.
            out.pop(wire.MSG_ID)
            attach = orjson.dumps({"id": headers.id})
            await self.service.lane.publish(subjects.kernel("syscall", "attach"), attach, headers=out)
        self.service.metrics.calls.labels(operation.full_name, "ok").inc()
        hop.end()

    async def _refuse(
        self, subject: SyscallSubject, reply: str, call_id: str, error: AiosError, hop: Hop, size: int
    ) -> None:
        self.audit.trail.refused(subject, call_id, error, size, hop.trace_id)
        if isinstance(error, ReplyForbidden):
            # Answering where the caller pointed would make access its accomplice.
            reply = f"{subjects.inbox_prefix(subject.tenant, subject.agent)}.{_REFUSED_REPLY}"
        await self.service.lane.reply(reply, replies.failed(call_id, error, trace_id=hop.trace_id))
        known = (subject.manager, subject.operation) in OPERATIONS
        operation = f"{subject.manager}.{subject.operation}" if known else "unknown"
        self.service.metrics.calls.labels(operation, error.code).inc()
        if isinstance(error, AccessDenied | ReplyForbidden):
            fact = CallFact(
                id=call_id,
                agent=subject.agent,
                operation=operation,
                code=error.code,
                trace_id=hop.trace_id,
                at_ms=time.time_ns() // 1_000_000,
            )
            await self.service.lane.reply(
                subjects.event(subject.tenant, "syscall.denied"), fact.model_dump_json(exclude_none=True).encode()
            )
        hop.end(error)


@lru_cache(maxsize=65_536)
def _parse_syscall(subject: str) -> SyscallSubject | None:
    return subjects.parse_syscall(subject)


def _readable_id(message: Msg) -> str:
    call_id = (message.headers or {}).get(wire.ID, "")
    return call_id if is_syscall_id(call_id) else UNREADABLE_ID


def _seconds_to(deadline_ms: int | None) -> float:
    return 3600.0 if deadline_ms is None else deadline_ms / 1000 - time.time()
