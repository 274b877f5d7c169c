"""How identities are managed by system calls: `access.whoami`, `access.agent.*` and `access.tenant.*`."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from aios_access.core import AccessCore
from aios_access.directory import Identity
from aios_access.ports import AgentStore, FindCaller
from aios_kit.service import Call, Service
from aios_proto.errors import ResourceConflict, ResourceNotFound
from aios_proto.messages.access import (
    AgentCreateRequest,
    AgentCredential,
    AgentInfo,
    AgentListResult,
    AgentRef,
    TenantCreateRequest,
    TenantInfo,
    TenantListResult,
    TenantRef,
    WhoamiResult,
)
from aios_proto.messages.base import Empty
from aios_proto.tokens import AgentToken

OPERATORS = "operator"


class Management:
    """The handlers of these operations.

    Args:
        core: decides who may manage whom.
        caller: finds who calls.
        store: gives the store, which is there once the service is connected.
        forget: removes what is kept of a tenant beside its agents.
    """

    def __init__(
        self,
        core: AccessCore,
        caller: FindCaller,
        store: Callable[[], AgentStore],
        forget: Callable[[str], Awaitable[None]],
    ) -> None:
        self._core = core
        self._caller = caller
        self._store = store
        self._forget = forget

    def serve_on(self, service: Service) -> None:
        """Registers the handlers."""
        service.serve("access", "whoami", self._whoami)
        service.serve("access", "agent.create", self._create)
        service.serve("access", "agent.list", self._list)
        service.serve("access", "agent.rotate", self._rotate)
        service.serve("access", "agent.revoke", self._revoke)

        service.serve("access", "tenant.create", self._create_tenant)
        service.serve("access", "tenant.list", self._list_tenants)
        service.serve("access", "tenant.delete", self._delete_tenant)

    async def _whoami(self, call: Call[Empty]) -> WhoamiResult:
        headers = call.headers
        return WhoamiResult(tenant=headers.tenant, agent=headers.agent, group=headers.group)

    async def _create(self, call: Call[AgentCreateRequest]) -> AgentCredential:
        tenant, agent, group = self._core.new_identity(await self._caller(call.headers), call.body)
        token = AgentToken.generate(tenant, agent)
        await self._store().create(Identity(tenant, agent, group, token.secret_sha256, _now_ms()))
        return _credential(token, group)

    async def _list(self, call: Call[Empty]) -> AgentListResult:
        agents = [_info(identity) for identity in self._core.directory.of_tenant(call.headers.tenant)]
        return AgentListResult(agents=agents)

    async def _rotate(self, call: Call[AgentRef]) -> AgentCredential:
        known = await self._named(call)
        token = AgentToken.generate(known.tenant, known.agent)
        await self._store().replace(replace(known, secret_sha256=token.secret_sha256))
        return _credential(token, known.group)

    async def _revoke(self, call: Call[AgentRef]) -> AgentInfo:
        known = await self._named(call)
        await self._store().delete(known.key)
        return _info(known)

    async def _create_tenant(self, call: Call[TenantCreateRequest]) -> AgentCredential:
        tenant, operator = call.body.tenant, call.body.operator
        self._core.tenant_of_others(await self._caller(call.headers), tenant)
        if self._core.directory.of_tenant(tenant):
            raise ResourceConflict(f"there is a tenant {tenant!r}", field="tenant")
        token = AgentToken.generate(tenant, operator)
        await self._store().create(Identity(tenant, operator, OPERATORS, token.secret_sha256, _now_ms()))
        return _credential(token, OPERATORS)

    async def _list_tenants(self, call: Call[Empty]) -> TenantListResult:
        caller = await self._caller(call.headers)
        tenants = self._core.directory.tenants()
        seen = tenants if caller.tenant == self._core.root_tenant else {caller.tenant: tenants[caller.tenant]}
        return TenantListResult(tenants=[_tenant(name, agents) for name, agents in sorted(seen.items())])

    async def _delete_tenant(self, call: Call[TenantRef]) -> TenantInfo:
        tenant = call.body.tenant
        self._core.tenant_of_others(await self._caller(call.headers), tenant)
        agents = self._core.directory.of_tenant(tenant)
        if not agents:
            raise ResourceNotFound(f"there is no tenant {tenant!r}", field="tenant")
        for agent in agents:
            await self._store().delete(agent.key)
        await self._forget(tenant)
        return _tenant(tenant, agents)

    async def _named(self, call: Call[AgentRef]) -> Identity:
        tenant = self._core.managed_tenant(await self._caller(call.headers), call.body.tenant)
        # Another replica may have made or changed it a moment ago, and this one would refuse what is right.
        await self._store().refresh(f"{tenant}.{call.body.agent}")
        identity = self._core.directory.find(tenant, call.body.agent)
        if identity is None:
            raise ResourceNotFound(f"there is no agent {tenant}.{call.body.agent}", field="agent")
        return identity


def _credential(token: AgentToken, group: str) -> AgentCredential:
    return AgentCredential(tenant=token.tenant, agent=token.agent, group=group, token=str(token))


def _info(identity: Identity) -> AgentInfo:
    return AgentInfo(tenant=identity.tenant, agent=identity.agent, group=identity.group, created_ms=identity.created_ms)


def _tenant(name: str, agents: list[Identity]) -> TenantInfo:
    return TenantInfo(tenant=name, agents=len(agents), created_ms=min(agent.created_ms for agent in agents))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
