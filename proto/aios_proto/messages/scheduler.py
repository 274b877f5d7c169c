"""The scheduler's management: `scheduler.state`, `scheduler.drain`, `scheduler.policy`."""

from typing import Annotated, Literal

from pydantic import Field

from aios_proto.messages.base import Body, Result
from aios_proto.names import Name

PolicyName = Literal["fifo", "rr", "priority", "fair", "las", "edf", "aios"]
Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
WorkerState = Literal["ready", "draining", "unavailable"]
"""`unavailable`: it lives, but its engine does not answer, or it has begun to stop."""


class WorkerInfo(Result):
    """One live worker."""

    pool: Name
    worker: Name
    model: str
    state: WorkerState
    running: int
    in_flight_limit: int = Field(description="calls given to it at once; a share where others have the same engine")
    engine_id: str | None = Field(None, description="the same for workers that share an engine, where that is known")
    seen_s_ago: float
    kv_tokens: int | None = Field(None, description="tokens its KV cache holds, or its share of them, where known")
    kv_used: int = Field(0, description="tokens of the programs that live there, running or expected back")
    residents: int = Field(0, description="programs that live there")


class PoolInfo(Result):
    """One pool: what is in force there, and how much waits and runs."""

    pool: Name
    policy: PolicyName
    tenant_weights: dict[Name, float] = Field(default_factory=dict)
    flood_share: float | None = None
    queue_per_tenant: int
    queue_total: int
    workers: int
    queued: int
    running: int


class TenantInfo(Result):
    """One tenant that has calls waiting or running in a pool."""

    tenant: Name
    pool: Name = "default"
    weight: float
    counter: float = Field(description="weighted tokens it has had, by its weight; of those waiting the lowest is next")
    queued: int
    running: int
    running_tokens: int = Field(0, description="KV reserved for its running calls")


class WaitingInfo(Result):
    """One waiting call, and why it waits."""

    id: str
    tenant: Name
    agent: Name
    program: str
    pool: Name = "default"
    priority: int
    waited_s: float
    deadline_in_s: float | None = Field(None, description="where the caller named a deadline")
    needs_tokens: int = Field(description="KV it needs")
    why: str


class StateResult(Result):
    """`scheduler.state`: what waits and why, what runs, on whom."""

    policy: PolicyName = Field(description="of the pools that have none of their own")
    instance: str = Field("", description="the active scheduler")
    fence: int = Field(0, description="fencing token of its commands to workers")
    queued: int
    held: int = Field(0, description="calls that wait for other calls")
    running: int
    queued_by_tenant: dict[str, int]
    pools: list[PoolInfo] = Field(default_factory=list)
    workers: list[WorkerInfo]
    tenants: list[TenantInfo] = Field(
        default_factory=list, description="by pool, there those that have had the least come first"
    )
    waiting: list[WaitingInfo] = Field(
        default_factory=list, description="by pool, there the next calls in order, at most 20"
    )


class DrainRequest(Body):
    """`scheduler.drain`: give that worker no new calls (or some again)."""

    pool: Name = "default"
    worker: Name
    drain: bool = True


class PoolSettings(Body):
    """How a pool's calls are ordered and bounded. What is not given is taken from where less is said.

    The order, the last word first: what `scheduler.policy` said of that pool, what `AIOS_SCHEDULER_POOLS` says of it,
    what `scheduler.policy` said of all pools, the other settings of the scheduler.
    """

    policy: PolicyName | None = Field(None, description="order of the queue")
    tenant_weights: dict[Name, Weight] | None = Field(
        None, description="shares of tenants; replaces all that were set, and is 1 for those not named"
    )
    flood_share: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="times what each other tenant has running that one may have that asks for over four times as much;"
        " 0 is unlimited",
    )
    queue_per_tenant: int | None = Field(None, ge=1, description="calls of one tenant that may wait")
    queue_total: int | None = Field(None, ge=1, description="calls that may wait in all")


class PolicyRequest(PoolSettings):
    """`scheduler.policy`: decide otherwise from now on; no queued call is lost. What is not given stays.

    It outlives the scheduler: the next one goes on with it.
    """

    pool: Name | None = Field(
        None, description="the pool it is for; all pools that have nothing of their own where not given"
    )
    reset: bool = Field(False, description="forget first what was said before of that pool, or of all pools")


class PolicyResult(Result):
    """The policy in force before and after, and what else is in force now: in that pool, or where nothing is said."""

    pool: Name | None = None
    before: PolicyName
    after: PolicyName
    tenant_weights: dict[Name, float] = Field(default_factory=dict)
    flood_share: float | None = None
    queue_per_tenant: int
    queue_total: int


class QueueLimits(Body):
    """How many calls may wait in one pool."""

    per_tenant: int = Field(1000, ge=1)
    per_pool: int = Field(10_000, ge=1)
