"""Whether a system call may pass, and what it carries from here on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from aios_access.directory import Directory, Identity
from aios_access.policies import Policies
from aios_access.policy_set import Circumstances, Decision
from aios_access.presence import PresenceTable
from aios_access.resources import Resource, parse_body, resources_of
from aios_access.routes import Route
from aios_kit.tracing import trace_headers
from aios_proto import headers as wire
from aios_proto import subjects
from aios_proto.errors import (
    AccessDenied,
    DeadlineExceeded,
    InvalidRequest,
    ManagerUnavailable,
    ReplyForbidden,
    RequestTooLarge,
    UnknownManager,
    UnknownOperation,
)
from aios_proto.limits import MAX_BODY_BYTES
from aios_proto.messages.access import AgentCreateRequest
from aios_proto.operations import MANAGERS, Operation
from aios_proto.subjects import KERNEL_TENANT

# A clock that runs ahead by less than this still names the present.
_ROUNDING_MS = 1


_ALLOWED = Decision("allow", ())
_NONE: frozenset[str] = frozenset()


@dataclass(slots=True)
class Admitted:
    """A call that may pass; like its headers made for every call, so not frozen, and not changed either.

    Attributes:
        identity: who calls.
        headers: what the next hop gets, identity and reply stamped.
        operation: its entry in the system-call table.
        name: `<manager>.<operation>`.
        target: where it goes on to.
        durable: whether JetStream must have it before the caller hears `accepted`.
        decision: `allow`, or `ask` where a human must agree first; and the policies that say so.
        own_deadline: whether the caller named the deadline itself.
        is_copy: whether it is the same call for a further inbox; what the call takes of its quotas is not its own.
    """

    identity: Identity
    headers: wire.CallHeaders
    operation: Operation
    name: str
    target: str
    durable: bool
    decision: Decision = _ALLOWED
    own_deadline: bool = False
    is_copy: bool = False


class AccessCore:
    """Decides on calls, from what it has been told of agents, policies and services."""

    def __init__(
        self,
        directory: Directory,
        policies: Policies,
        presence: PresenceTable,
        *,
        default_deadline_s: float,
        max_deadline_s: float,
        root_tenant: str,
    ) -> None:
        self.directory = directory
        self.policies = policies
        self.tool_effects: dict[str, frozenset[str]] = {}
        """What each tool declares, by `<tenant>.<tool>`, for policies on tools."""
        self.is_tainted: Callable[[str, str, str, str | None], bool] = lambda *_: False
        """Whether a program (by tenant, agent and program), or the context it works on, holds untrusted content."""
        self.presence = presence
        self._default_deadline_ms = int(default_deadline_s * 1000)
        self._max_deadline_ms = int(max_deadline_s * 1000)
        self.root_tenant = root_tenant

    def admit(
        self,
        route: Route,
        reply: str,
        raw_headers: Mapping[str, str] | None,
        body: bytes,
        now_us: int,
        steady_s: float,
    ) -> Admitted:
        """Decides on one call.

        Args:
            route: of its subject, which the bus has authenticated.
            reply: where the caller wants its frames.
            raw_headers: as sent; identity headers among them are dropped.
            body: as sent; parsed only where a policy asks for what is in it.
            now_us: Unix time in microseconds.
            steady_s: the clock of the presence table.

        Raises:
            AiosError: why it may not pass.
        """
        subject = route.subject
        if not reply.startswith(route.inbox) or "*" in reply or ">" in reply:
            raise ReplyForbidden("the reply subject is missing or outside the caller's own inbox", field="reply")
        # Found first and judged later, so that the headers are made once, with everything stamped: they are many.
        identity = self.directory.by_key(route.agent_key)
        now_ms = now_us // 1000
        headers = wire.from_agent(
            raw_headers,
            tenant=subject.tenant,
            agent=subject.agent,
            group="" if identity is None else identity.group,
            reply=reply,
            times_us=(now_us,),
            deadline_ms=now_ms + self._default_deadline_ms,
        )
        operation = route.operation
        if operation is None:
            if subject.manager not in MANAGERS:
                raise UnknownManager(f"there is no manager {subject.manager[:64]!r}", field="manager")
            raise UnknownOperation(f"{subject.manager} has no operation {subject.operation[:64]!r}", field="operation")
        if identity is None:
            raise revoked()
        if len(body) > MAX_BODY_BYTES:
            raise RequestTooLarge(f"the body has {len(body)} bytes, at most {MAX_BODY_BYTES} are taken", field="body")
        decision = route.early_decision(self.policies.of_tenant(identity.tenant), identity, operation)
        if decision is None:
            decision = self._decide_by_resource(identity, operation, headers, body)
        if decision.effect == "deny":
            raise _denied(identity, operation, decision)
        if headers.durability == "durable" and operation.durability != "durable":
            raise InvalidRequest(f"{operation.full_name} is not queued, so it cannot be durable", field=wire.DURABILITY)
        if headers.traceparent is not None or headers.tracestate is not None:
            traceparent, tracestate = trace_headers(headers.traceparent, headers.tracestate)
            if (traceparent, tracestate) != (headers.traceparent, headers.tracestate):
                headers = replace(headers, traceparent=traceparent, tracestate=tracestate)
        named_deadline = raw_headers is not None and wire.DEADLINE in raw_headers
        if named_deadline:
            self._check_deadline(headers.deadline_ms, now_ms)
        if not route.served_here and not self.presence.serves(operation.manager, operation.name, steady_s):
            raise _unserved(operation)
        durable = (headers.durability or operation.durability) == "durable"
        return Admitted(identity, headers, operation, route.name, route.target, durable, decision, named_deadline)

    def admit_again(self, admitted: Admitted, route: Route, body: bytes, steady_s: float) -> Admitted:
        """Decides anew on a call that has waited: by its agent's standing and the policies in force now.

        Args:
            admitted: the call, as it was decided on when it came.
            route: of its subject.
            body: as sent.
            steady_s: the clock of the presence table.

        Raises:
            AiosError: why it may not pass any more.
        """
        identity, operation, headers = self.directory.by_key(route.agent_key), admitted.operation, admitted.headers
        # An agent that was made anew under the same name is another one.
        if identity is None or identity.created_ms != admitted.identity.created_ms:
            raise revoked()
        if identity.group != headers.group:
            headers = replace(headers, group=identity.group)
        decision = self.decide(identity, operation, headers, body)
        if decision.effect == "deny":
            raise _denied(identity, operation, decision)
        if not route.served_here and not self.presence.serves(operation.manager, operation.name, steady_s):
            raise _unserved(operation)
        return replace(admitted, identity=identity, headers=headers, decision=decision)

    def decide(self, identity: Identity, operation: Operation, headers: wire.CallHeaders, body: bytes) -> Decision:
        """What the policies say about a call as things are now."""
        decision = self.policies.decide_early(identity, operation)
        return self._decide_by_resource(identity, operation, headers, body) if decision is None else decision

    def with_effects(self, resource: Resource) -> Resource:
        """A resource with what is known of it beside its name."""
        if resource.type != "Tool":
            return resource
        own = self.tool_effects.get(f"{resource.tenant}.{resource.name}", _NONE)
        # A tenant's tool may have the name of one of the kernel's: what either may do counts.
        return replace(resource, effects=own | self.tool_effects.get(f"{KERNEL_TENANT}.{resource.name}", _NONE))

    def _decide_by_resource(
        self, identity: Identity, operation: Operation, headers: wire.CallHeaders, body: bytes
    ) -> Decision:
        named = resources_of(operation.manager, parse_body(body), headers.context, identity.tenant, identity.agent)
        program = headers.program or identity.agent
        circumstances = Circumstances(
            tainted=self.is_tainted(identity.tenant, identity.agent, program, headers.context),
            own=all(resource.owner == identity.agent for resource in named),
            program=program,
            priority=headers.priority,
        )
        resources = tuple(self.with_effects(resource) for resource in named)
        return self.policies.decide(identity, operation, resources, circumstances)

    def new_identity(self, caller: Identity, request: AgentCreateRequest) -> tuple[str, str, str]:
        """Tenant, agent and group of an identity `caller` wants to create.

        Raises:
            AccessDenied: the tenant is not the caller's to manage.
            InvalidRequest: the group or the tenant cannot be used.
        """
        tenant = self.managed_tenant(caller, request.tenant)
        if not self.policies.knows_group(tenant, request.group):
            known = ", ".join(self.policies.group_names(tenant))
            raise InvalidRequest(f"there is no group {request.group!r}; there are {known}", field="group")
        return tenant, request.agent, request.group

    def managed_tenant(self, caller: Identity, tenant: str | None) -> str:
        """The tenant a management call is about.

        Raises:
            AccessDenied: it is another tenant's, and the caller does not belong to the root tenant.
            InvalidRequest: it is the kernel's own.
        """
        wanted = tenant or caller.tenant
        if wanted == subjects.KERNEL_TENANT:
            raise InvalidRequest(f"the tenant {subjects.KERNEL_TENANT!r} is the kernel's own", field="tenant")
        if wanted != caller.tenant and caller.tenant != self.root_tenant:
            raise AccessDenied("only operators of the root tenant manage other tenants", field="tenant")
        return wanted

    def tenant_of_others(self, caller: Identity, tenant: str) -> None:
        """Lets operators of the root tenant make and delete other tenants.

        Raises:
            AccessDenied: the caller is of another tenant.
            InvalidRequest: the tenant is the root tenant, or the kernel's own.
        """
        if self.managed_tenant(caller, tenant) == self.root_tenant:
            raise InvalidRequest("the root tenant is there from the start and stays", field="tenant")
        if caller.tenant != self.root_tenant:
            raise AccessDenied("only operators of the root tenant manage tenants", field="tenant")

    def _check_deadline(self, wanted_ms: int | None, now_ms: int) -> None:
        if wanted_ms is None:
            return
        if wanted_ms + _ROUNDING_MS <= now_ms:
            raise DeadlineExceeded("the deadline had passed when the call arrived", field=wire.DEADLINE)
        if wanted_ms > now_ms + self._max_deadline_ms:
            seconds = self._max_deadline_ms // 1000
            raise InvalidRequest(f"the deadline may be at most {seconds} s ahead", field=wire.DEADLINE)


def revoked() -> AccessDenied:
    """What an agent is told that is no more."""
    return AccessDenied("this agent's credential has been revoked")


def _unserved(operation: Operation) -> ManagerUnavailable:
    return ManagerUnavailable(f"no running service offers {operation.full_name} now", retry_after_s=1)


def _denied(identity: Identity, operation: Operation, decision: Decision) -> AccessDenied:
    if decision.policies:
        by = ", ".join(decision.policies[:3])
        return AccessDenied(f"{operation.full_name} is forbidden here by the policy {by}", field="operation")
    return AccessDenied(f"group {identity.group} may not perform {operation.full_name}", field="operation")
