"""How quotas are managed by system calls: `access.quota.{set,show}`."""

from collections.abc import Callable

from aios_access.core import AccessCore
from aios_access.ports import FindCaller, QuotaStore
from aios_access.quota_guard import QuotaGuard
from aios_access.quotas import MICRO, QuotaKey
from aios_kit.service import Call, Service
from aios_proto.errors import InvalidRequest
from aios_proto.messages.access import QuotaInfo, QuotaLimits, QuotaSetRequest, QuotaShowResult, TenantChoice

_NO_LIMITS = frozenset(("tokens_window_s", "budget_window_s", "wait_s"))


class QuotaManagement:
    """The handlers of these operations.

    Args:
        core: decides who may manage whose quotas.
        caller: finds who calls.
        guard: knows what is used.
        store: gives the store, which is there once the service is connected.
    """

    def __init__(
        self, core: AccessCore, caller: FindCaller, guard: QuotaGuard, store: Callable[[], QuotaStore]
    ) -> None:
        self._core = core
        self._caller = caller
        self._guard = guard
        self._store = store

    def serve_on(self, service: Service) -> None:
        """Registers the handlers."""
        service.serve("access", "quota.set", self._set)
        service.serve("access", "quota.show", self._show)

    async def _set(self, call: Call[QuotaSetRequest]) -> QuotaInfo:
        body = call.body
        tenant = self._core.managed_tenant(await self._caller(call.headers), body.tenant)
        if body.scope == "tenant" and body.name is not None:
            raise InvalidRequest("a tenant's own quota has no name", field="name")
        if body.scope in ("group", "agent") and body.name is None:
            raise InvalidRequest(f"which {body.scope}?", field="name")
        key: QuotaKey = (tenant, body.scope, body.name or "")
        if _limits_anything(body.limits):
            await self._store().put(key, body.limits)
        else:
            await self._store().delete(key)
        return QuotaInfo(scope=body.scope, name=body.name, limits=body.limits)

    async def _show(self, call: Call[TenantChoice]) -> QuotaShowResult:
        tenant = self._core.managed_tenant(await self._caller(call.headers), call.body.tenant)
        quotas = [await self._info(key, limits) for key, limits in self._guard.quotas.of_tenant(tenant)]
        return QuotaShowResult(quotas=quotas)

    async def _info(self, key: QuotaKey, limits: QuotaLimits) -> QuotaInfo:
        _, scope, name = key
        tokens, budget = await self._guard.used(key)
        return QuotaInfo(
            scope=scope,
            name=name or None,
            limits=limits,
            used_tokens=tokens,
            used_budget=None if budget is None else budget / MICRO,
        )


def _limits_anything(limits: QuotaLimits) -> bool:
    return any(value is not None for name, value in limits if name not in _NO_LIMITS)
