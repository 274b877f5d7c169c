"""The access manager on the bus: takes system calls in, lets them pass or refuses them, answers the auth callout."""

import asyncio
import time
from contextlib import suppress

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from pydantic import ValidationError

from aios_access.adapters.bus_connections import BusConnections
from aios_access.adapters.kv_agent_store import KvAgentStore, read_bootstrap
from aios_access.approval_service import ApprovalService
from aios_access.attaching import Attaching
from aios_access.audit_service import AuditService
from aios_access.callout import AuthCallout
from aios_access.callout_service import CalloutService
from aios_access.core import AccessCore, revoked
from aios_access.directory import Directory, Identity
from aios_access.management import Management
from aios_access.nats_jwt import Issuer, Xkey
from aios_access.open_calls import OpenCalls
from aios_access.passing import Passing
from aios_access.policies import DEFAULT_DOCUMENT, Policies
from aios_access.policy_management import PolicyManagement
from aios_access.policy_set import check_document
from aios_access.presence import PresenceTable
from aios_access.quota_service import QuotaService
from aios_access.settings import AccessSettings
from aios_access.stores import Stores
from aios_access.syscalls import Syscalls
from aios_access.taint_service import TaintService
from aios_access.waiting_calls import WaitingCalls
from aios_kit.service import Service
from aios_kit.streams import agents_bucket, ensure_bucket, ensure_stream, events_stream, syscalls_stream
from aios_kit.tasks import end
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.errors import (
    BusUnavailable,
    ResourceConflict,
)
from aios_proto.kernel import PRESENCE_INTERVAL_S, Presence

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
        self.waiting = WaitingCalls(self.service, self.presence, self.quotas.guard.is_open)
        OpenCalls(self.service, self.presence, self.approvals, self.waiting)
        self._attaching = Attaching(self.service, self.presence, self.approvals, self.waiting)
        PolicyManagement(self.core, self._caller, lambda: self.stores.policies).serve_on(self.service)
        self._callout = self._make_callout()
        self._passing = Passing(self.service, settings, self.quotas, self.audit, self.taint, self.approvals)
        self._syscalls = Syscalls(
            self.service,
            self.core,
            self.quotas.guard,
            self.audit,
            self.taint,
            self._passing,
            self.waiting,
            self._look_up,
        )

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
            raise revoked()
        return identity

    def _make_callout(self) -> CalloutService | None:
        if self.settings.access_issuer_file is None:
            return None
        xkey = self.settings.access_xkey_file
        callout = AuthCallout(
            self.directory,
            Issuer(self.settings.access_issuer_file.read_text()),
            None if xkey is None else Xkey(xkey.read_text()),
        )
        return CalloutService(self.service, callout, self.audit, self._look_up)

    async def _start(self) -> None:
        service, replicas = self.service, self.settings.jetstream_replicas
        await service.lane.subscribe(subjects.ALL_PRESENCE, self._on_presence)
        listening_since = time.monotonic()
        bucket = await ensure_bucket(service.js, agents_bucket(replicas))
        self._store = KvAgentStore(service.js, bucket, self.directory, service.log)
        await ensure_stream(service.js, syscalls_stream(replicas))
        await ensure_stream(service.js, events_stream(replicas))
        # Cedar's schema is read now, not while the first operator waits for a policy.
        await asyncio.to_thread(check_document, DEFAULT_DOCUMENT, self.core.policies.default_text)
        await self.audit.open()
        await self.taint.open()
        await self.approvals.open()
        self._stores = await Stores.open(service.js, replicas, self.core.policies, self.quotas.quotas, service.log)
        await self._stores.start(self.settings.request_timeout_s)
        await self.quotas.open(self._stores)
        await self.waiting.open()
        await self._attaching.open()
        await self._restart_watch()
        await asyncio.wait_for(self._loaded.wait(), self.settings.request_timeout_s)
        await self._bootstrap()
        if self._callout is not None:
            self._connections.cut_strangers()
            await self._callout.open()
        await asyncio.sleep(max(0.0, listening_since + _LISTEN_FIRST_S - time.monotonic()))
        self._passing.open()
        await service.lane.subscribe(subjects.ALL_SYSCALLS, self._syscalls.take, queue=subjects.SYSCALL_QUEUE_GROUP)

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
            await end(self._watch)

    async def _reconnected(self) -> None:
        self.presence.refresh(time.monotonic())
        await self.waiting.restart()
        await self.taint.restart()
        await self.approvals.restart()
        if self._store is not None:
            await self._restart_watch()
        if self._stores is not None:
            await self._stores.restart()

    async def _drain(self) -> None:
        if self._callout is not None:
            await self._callout.drain(_LOOKUP_TIMEOUT_S)
        await self.waiting.stop()
        await self._syscalls.drain(self.settings.request_timeout_s)
        await self._passing.drain(self.settings.request_timeout_s)

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

    async def _look_up(self, key: str) -> None:
        """Asks the store for an agent that is not known: another replica may have created it a moment ago."""
        try:
            async with asyncio.timeout(_LOOKUP_TIMEOUT_S):
                await self.store.refresh(key)
        except (BusUnavailable, TimeoutError) as error:
            self.service.log.warning("an agent could not be looked up", key=key, error=str(error))

    def _cut_off(self, agent: str) -> None:
        """An agent is no more: its connections go too, and its calls that wait for a quota end."""
        self._connections.cut(agent)
        self.waiting.revoke(agent)
