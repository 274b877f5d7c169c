"""How policies are managed by system calls: `access.policy.{put,get,list,check}`."""

import asyncio
import time
from collections.abc import Callable

from aios_access.core import AccessCore
from aios_access.directory import Identity
from aios_access.policies import DEFAULT_DOCUMENT, PolicyDocument
from aios_access.policy_set import Circumstances, policy_names
from aios_access.ports import FindCaller, PolicyStore
from aios_access.resources import Resource, parse_resource, resources_of
from aios_kit.service import Call, Service
from aios_proto.errors import InvalidRequest, ResourceNotFound
from aios_proto.messages.access import (
    PolicyCheckRequest,
    PolicyCheckResult,
    PolicyDocumentResult,
    PolicyInfo,
    PolicyListResult,
    PolicyPutRequest,
    PolicyRef,
    TenantChoice,
)
from aios_proto.operations import OPERATIONS


class PolicyManagement:
    """The handlers of these operations.

    Args:
        core: decides who may manage whose policies.
        caller: finds who calls.
        store: gives the store, which is there once the service is connected.
    """

    def __init__(self, core: AccessCore, caller: FindCaller, store: Callable[[], PolicyStore]) -> None:
        self._core = core
        self._caller = caller
        self._policies = core.policies
        self._store = store

    def serve_on(self, service: Service) -> None:
        """Registers the handlers."""
        service.serve("access", "policy.put", self._put)
        service.serve("access", "policy.get", self._get)
        service.serve("access", "policy.list", self._list)
        service.serve("access", "policy.check", self._check)

    async def _put(self, call: Call[PolicyPutRequest]) -> PolicyInfo:
        body, author = call.body, await self._caller(call.headers)
        tenant = self._core.managed_tenant(author, body.tenant)
        if self._policies.is_small_change(tenant, body.name, body.text):
            self._policies.check(author, tenant, body.name, body.text)
        else:
            # Cedar's validator takes a third of a millisecond a policy.
            await asyncio.to_thread(self._policies.check, author, tenant, body.name, body.text)
        now_ms = time.time_ns() // 1_000_000
        document = PolicyDocument(tenant, body.name, 0, body.text, author.key, now_ms)
        return self._info(await self._store().put(document, body.expect_version))

    async def _get(self, call: Call[PolicyRef]) -> PolicyDocumentResult:
        body = call.body
        tenant = self._core.managed_tenant(await self._caller(call.headers), body.tenant)
        if body.version is None:
            document = self._policies.document(tenant, body.name)
        elif body.version == 0 and body.name == DEFAULT_DOCUMENT:
            document = self._policies.builtin(tenant)
        else:
            document = await self._store().version(tenant, body.name, body.version)
        return PolicyDocumentResult(**self._info(document).model_dump(), text=document.text)

    async def _list(self, call: Call[TenantChoice]) -> PolicyListResult:
        tenant = self._core.managed_tenant(await self._caller(call.headers), call.body.tenant)
        return PolicyListResult(documents=[self._info(document) for document in self._policies.documents(tenant)])

    async def _check(self, call: Call[PolicyCheckRequest]) -> PolicyCheckResult:
        body = call.body
        tenant = self._core.managed_tenant(await self._caller(call.headers), body.tenant)
        identity = self._core.directory.find(tenant, body.agent)
        if identity is None:
            raise ResourceNotFound(f"there is no agent {tenant}.{body.agent}", field="agent")
        operation = OPERATIONS.get(_split(body.operation))
        if operation is None:
            raise InvalidRequest(f"there is no operation {body.operation[:80]!r}", field="operation")
        early = self._policies.decide_early(identity, operation)
        resources = self._resources(body, identity, operation.manager)
        owners = {resource.owner for resource in resources}
        circumstances = Circumstances(tainted=body.tainted, own=owners == {identity.agent}, program=identity.agent)
        decision = early or self._policies.decide(identity, operation, resources, circumstances)
        return PolicyCheckResult(decision=decision.effect, policies=list(decision.policies), by_resource=early is None)

    def _resources(self, body: PolicyCheckRequest, identity: Identity, manager: str) -> tuple[Resource, ...]:
        owner = body.owner or identity.agent
        if body.resource is not None:
            resource = parse_resource(body.resource, identity.tenant, owner)
            return (self._core.with_effects(resource),)
        return resources_of(manager, {}, None, identity.tenant, owner)

    def _info(self, document: PolicyDocument) -> PolicyInfo:
        fault = self._policies.faults(document.tenant).get(document.name)
        names = [] if fault else list(policy_names(document.name, document.text))
        return PolicyInfo(
            tenant=document.tenant,
            name=document.name,
            version=document.version,
            author=document.author,
            at_ms=document.at_ms,
            policies=names,
            fault=fault,
        )


def _split(operation: str) -> tuple[str, str]:
    manager, _, name = operation.partition(".")
    return manager, name
