"""What the access manager can be told from outside."""

from pathlib import Path

from pydantic import Field

from aios_access.quotas import Price
from aios_kit.settings import ServiceSettings
from aios_proto.names import NAME_PATTERN

DEFAULT_GROUPS: dict[str, list[str]] = {
    "operator": ["*"],
    "agent": ["llm.*", "syscall.*", "context.*", "memory.*", "storage.*", "tool.*", "access.whoami"],
    "guest": ["llm.models", "syscall.list", "access.whoami"],
}


class AccessSettings(ServiceSettings):
    """Settings of the access manager, `AIOS_ACCESS_*`, beside those all services share."""

    access_issuer_file: Path | None = Field(
        None, description="seed of the account nkey that signs the callout's answers"
    )
    access_xkey_file: Path | None = Field(None, description="seed of the xkey that seals the auth callout")
    access_bootstrap_file: Path | None = Field(
        None, description="JSON list of agents that exist from the start: tenant, agent, group, secret_sha256"
    )
    access_groups: dict[str, list[str]] = Field(
        default_factory=lambda: dict(DEFAULT_GROUPS),
        description="allowed operations by privilege group: `*`, `manager.*` or `manager.operation`",
    )
    access_prices: dict[str, Price] = Field(
        default_factory=dict,
        description="money for a million tokens by model, `*` for all others: `prompt` and `completion`; for budgets",
    )
    access_reserve_tokens: int = Field(
        512, ge=1, description="tokens a quota reserves for the answer of a call that names no `max_tokens`"
    )
    access_max_replicas: int = Field(
        4, ge=1, le=64, description="most replicas of access that run at once; with more, quotas per second leak"
    )
    access_root_tenant: str = Field(
        "default", pattern=NAME_PATTERN, description="operators of this tenant may manage agents of all tenants"
    )
    access_default_deadline_s: float = Field(600, gt=0, description="deadline of a call that names none")
    access_max_deadline_s: float = Field(24 * 3600, gt=0, description="furthest deadline a call may name")
    access_audit_linger_s: float = Field(
        0.05, ge=0, le=5, description="seconds an audit record may wait for others before it is stored"
    )
    access_audit_capacity: int = Field(
        100_000, ge=1, description="audit records that may wait for the bus; beyond it no call is let in"
    )
    access_audit_max_age_s: float = Field(0, ge=0, description="seconds after which audit records are dropped; 0 never")
    access_audit_contents: bool = Field(False, description="whether the bodies of all calls are kept in the audit log")
    access_audit_before_accept: bool = Field(
        True, description="whether a durable call is told `accepted` only when its audit record is on disk too"
    )
    access_audit_keys: list[str] = Field(
        default_factory=list, description="public nkeys that sealed the audit log before the present issuer did"
    )
    access_approval_timeout_s: float = Field(
        3600, gt=0, le=3 * 86_400, description="longest a call waits for a human; an earlier deadline of its own holds"
    )
    access_approvals_per_tenant: int = Field(1000, ge=1, description="calls of one tenant that may wait for a human")
    access_taint_lifetime_s: float = Field(
        7 * 86_400, gt=0, description="seconds for which a program, context or store counts as tainted"
    )
    access_trusted_tools: list[str] = Field(
        default_factory=lambda: ["calculator", "time"], description="tools whose output is not untrusted"
    )
    access_concurrency: int = Field(4096, ge=1, description="durable calls waiting for JetStream at once")
