"""Identity and rights: agents' credentials, approvals, policies, audit."""

from typing import Literal

from pydantic import Field

from aios_proto.messages.base import Body, Result
from aios_proto.names import Name, SyscallId


class WhoamiResult(Result):
    """`access.whoami`: how the kernel sees the caller."""

    tenant: Name
    agent: Name
    group: Name


class AgentCreateRequest(Body):
    """`access.agent.create`: a new identity. Its tenant defaults to the caller's."""

    agent: Name
    tenant: Name | None = None
    group: Name = "agent"


class AgentCredential(Result):
    """Shown once: the kernel keeps only a hash of the secret."""

    tenant: Name
    agent: Name
    group: Name
    token: str


class AgentRef(Body):
    """Names one agent, for `access.agent.revoke` and `access.agent.rotate`."""

    agent: Name
    tenant: Name | None = None


class AgentInfo(Result):
    """One identity."""

    tenant: Name
    agent: Name
    group: Name
    created_ms: int


class AgentListResult(Result):
    """`access.agent.list`: the identities of the caller's tenant."""

    agents: list[AgentInfo]


ApprovalState = Literal["pending", "approved", "released", "denied", "expired", "cancelled"]


class ApprovalInfo(Result):
    """A parked call and what it would do."""

    approval_id: str
    syscall_id: SyscallId
    tenant: Name
    agent: Name
    program: str
    operation: str
    summary: str = Field(description="what will happen: the operation with the beginning of its arguments")
    why: str = Field(description="the rule or policy that asks")
    taint: list[str] = Field(default_factory=list, description="untrusted content this program has seen came from here")
    state: ApprovalState = Field(description="`approved` until it runs, then `released`; `cancelled` by its agent")
    parked_ms: int
    expires_ms: int
    decided_by: Name | None = None
    reason: str | None = None


class ApprovalListRequest(Body):
    """`access.approvals`: those that wait; with `all`, also those decided lately. Of the caller's tenant by default."""

    tenant: Name | None = None
    all: bool = False


class ApprovalListResult(Result):
    """`access.approvals`: the calls that wait for a human, oldest first."""

    approvals: list[ApprovalInfo]


class ApprovalDecision(Body):
    """`access.approve` and `access.deny`. The tenant defaults to the caller's."""

    approval_id: str = Field(pattern=r"^[0-9a-f]{24}$")
    reason: str | None = Field(None, max_length=1000)
    tenant: Name | None = None


class PolicyPutRequest(Body):
    """`access.policy.put`: a new version of a policy document, in force once it was found valid. Empty permits nothing.

    The document `default` takes the place of the built-in one; all others add to it.
    """

    name: Name = "default"
    text: str = Field(description="policies in Cedar's notation", max_length=131_072)
    tenant: Name | None = None
    expect_version: int | None = Field(None, ge=0, description="refuse if another version is in force")


class PolicyRef(Body):
    """`access.policy.get`: one document, or one of its last 64 versions; version 0 of `default` is the built-in one."""

    name: Name = "default"
    tenant: Name | None = None
    version: int | None = Field(None, ge=0)


class TenantChoice(Body):
    """`access.policy.list` and `access.quota.show`: of which tenant; None is the caller's."""

    tenant: Name | None = None


class PolicyInfo(Result):
    """One version of one policy document."""

    tenant: Name
    name: Name
    version: int = Field(description="0 is the built-in document")
    author: str
    at_ms: int
    policies: list[str] = Field(description="ids of its policies, as `<document>:<id>`")
    fault: str | None = Field(None, description="why the stored document cannot be used, where it cannot")


class PolicyDocumentResult(PolicyInfo):
    """`access.policy.get`."""

    text: str


class PolicyListResult(Result):
    """`access.policy.list`: the documents in force."""

    documents: list[PolicyInfo]


class PolicyCheckRequest(Body):
    """`access.policy.check`: would this be allowed, and by which policy?"""

    agent: Name
    operation: str
    resource: str | None = Field(None, description='such as `File::"notes/x"`; None is one without a name')
    tenant: Name | None = None
    owner: Name | None = Field(None, description="whose resource it is; None is the agent's own")
    tainted: bool = False


class PolicyCheckResult(Result):
    """The decision and the policies that made it."""

    decision: Literal["allow", "deny", "ask"]
    policies: list[str]
    by_resource: bool = Field(False, description="whether it depends on the resource or the circumstances")


QuotaScope = Literal["tenant", "group", "agent", "program"]


class QuotaLimits(Body):
    """What a tenant, group, agent or program may use; None is no limit. A group's limits hold for each agent in it."""

    calls_per_s: int | None = Field(None, ge=0, description="calls in each second of the clock")
    concurrent_calls: int | None = Field(None, ge=0, description="model calls that have not ended")
    tokens: int | None = Field(None, ge=0, description="tokens of prompts and answers in each window")
    tokens_window_s: int = Field(3600, ge=1, le=31 * 86_400)
    budget: float | None = Field(None, ge=0, description="money for tokens in each window, in the price table's unit")
    budget_window_s: int = Field(86_400, ge=1, le=366 * 86_400)
    wait_s: float = Field(0, ge=0, le=60, description="soft limit: a call waits so long for its turn before it fails")


class QuotaSetRequest(Body):
    """`access.quota.set`: limits without any value remove the quota."""

    scope: QuotaScope
    name: Name | None = Field(None, description="of the group, agent or program; None: the tenant, or each program")
    tenant: Name | None = None
    limits: QuotaLimits


class QuotaInfo(Result):
    """One quota and its use, as far as all replicas have told."""

    scope: QuotaScope
    name: str | None = None
    limits: QuotaLimits
    used_tokens: int | None = Field(
        None, description="in this window, with what replicas hold for calls to come; None where no name says whose"
    )
    used_budget: float | None = Field(None, description="likewise")


class QuotaShowResult(Result):
    """`access.quota.show`."""

    quotas: list[QuotaInfo]


class TenantCreateRequest(Body):
    """`access.tenant.create`: a new tenant with its first operator."""

    tenant: Name
    operator: Name = "operator"


class TenantRef(Body):
    """`access.tenant.delete`: revokes all its agents and forgets its policies and quotas."""

    tenant: Name


class TenantInfo(Result):
    """One tenant."""

    tenant: Name
    agents: int
    created_ms: int


class TenantListResult(Result):
    """`access.tenant.list`."""

    tenants: list[TenantInfo]


class AuditVerifyRequest(Body):
    """`access.audit.verify`. The tenant defaults to the caller's; `kernel` holds what belongs to none."""

    tenant: Name | None = None
    anchor: str | None = Field(
        None,
        pattern=r"^[0-9]{1,18}:[0-9a-f]{64}$",
        description="a `head` that was kept elsewhere: the chain must pass through it, so that a cut end is noticed",
    )


AuditFaultKind = Literal["changed", "gap", "order", "link", "seal", "unreadable", "truncated", "deleted"]


class AuditFault(Result):
    """One place where the log is not as it was written: number of the record and what is wrong there."""

    seq: int
    kind: AuditFaultKind
    detail: str


class AuditVerifyResult(Result):
    """`access.audit.verify`: whether the chain of records is whole."""

    tenant: Name
    records: int
    intact: bool
    head: str = Field(description="`<number>:<hash>` of the last record; keep it elsewhere as an anchor")
    sealed: bool = Field(description="whether the writers' signatures were checked")
    first_seq: int | None = Field(None, description="of the oldest record; more than 1 where old ones are dropped")
    first_fault: int | None = None
    fault: str | None = None
    faults: list[AuditFault] = Field(default_factory=list, description="the first hundred")


class AuditExportRequest(Body):
    """`access.audit.export`: the log's lines as they are stored, page by page."""

    tenant: Name | None = None
    cursor: int = Field(0, ge=0, description="as the page before gave it; 0 begins with the oldest")


class AuditExportResult(Result):
    """One page; `cursor` is None after the last."""

    lines: str = Field(description="JSON lines, each ended by a line feed; seals among them")
    cursor: int | None = None
