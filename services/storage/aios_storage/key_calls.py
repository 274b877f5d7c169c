"""The system calls on tenants' keys, for operators: `storage.keys`, `storage.rotate`, `storage.shred`."""

import time
from collections.abc import Awaitable, Callable

import orjson

from aios_kit.service import Call, Service
from aios_proto import subjects
from aios_proto.errors import AccessDenied, InvalidRequest
from aios_proto.headers import CallHeaders
from aios_proto.messages.storage import KeysResult, ShredRequest, TenantRequest
from aios_storage.rewrapping import Rewrapping
from aios_storage.sealed_store import SealedStore

OPERATORS = "operator"


class KeyCalls:
    """The handlers of these calls.

    Args:
        service: publishes the facts that a tenant's keys were changed or destroyed, so that other managers follow.
        store: has the tenants' data and the ring with their keys.
        rewrapping: follows a rotation.
        root_tenant: whose operators manage every tenant.
        forget: drops what is derived from a tenant's data.
    """

    def __init__(
        self,
        service: Service,
        store: SealedStore,
        rewrapping: Rewrapping,
        root_tenant: str,
        forget: Callable[[str], Awaitable[None]],
    ) -> None:
        self._service = service
        self._store = store
        self._rewrapping = rewrapping
        self._root_tenant = root_tenant
        self._forget = forget

    def serve_on(self, service: Service) -> None:
        """Registers the handlers."""
        service.serve("storage", "keys", self._keys)
        service.serve("storage", "rotate", self._rotate)
        service.serve("storage", "shred", self._shred)

    async def _keys(self, call: Call[TenantRequest]) -> KeysResult:
        return await self._result(self._managed(call.headers, call.body.tenant))

    async def _rotate(self, call: Call[TenantRequest]) -> KeysResult:
        tenant = self._managed(call.headers, call.body.tenant)
        await self._store.ring.rotate(tenant)
        self._rewrapping.begin(tenant)
        await self._tell(call.headers, tenant, "rotated")
        return await self._result(tenant)

    async def _shred(self, call: Call[ShredRequest]) -> KeysResult:
        tenant = self._managed(call.headers, call.body.tenant)
        if call.body.confirm != tenant:
            raise InvalidRequest("confirm: say the tenant's name once more", field="confirm")
        await self._store.ring.destroy(tenant)
        await self._tell(call.headers, tenant, "shredded")
        await self._forget(tenant)
        return await self._result(tenant)

    async def _tell(self, headers: CallHeaders, tenant: str, what: str) -> None:
        fact = {"agent": headers.agent, "at_ms": time.time_ns() // 1_000_000}
        await self._service.lane.reply(subjects.event(tenant, f"storage.{what}"), orjson.dumps(fact))

    def _managed(self, headers: CallHeaders, tenant: str | None) -> str:
        if headers.group != OPERATORS:
            raise AccessDenied("only operators manage keys")
        if tenant is None or tenant == headers.tenant:
            return headers.tenant
        if headers.tenant != self._root_tenant:
            raise AccessDenied("an operator manages the keys of its own tenant", field="tenant")
        return tenant

    async def _result(self, tenant: str) -> KeysResult:
        keys = await self._store.ring.describe(tenant)
        return KeysResult(
            tenant=tenant,
            current=keys.current,
            versions=list(keys.versions),
            destroyed=keys.destroyed,
            rewrapping=self._rewrapping.running(tenant),
            behind=self._rewrapping.behind(tenant),
        )
