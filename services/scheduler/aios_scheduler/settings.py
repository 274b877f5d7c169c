"""What the scheduler can be told from outside."""

from typing import Literal

from pydantic import Field

from aios_kit.settings import ServiceSettings
from aios_proto.messages.scheduler import PolicyName, PoolSettings, QueueLimits
from aios_proto.names import Name
from aios_scheduler.core.configuration import PoolConfiguration


class SchedulerSettings(ServiceSettings):
    """Settings of the scheduler, `AIOS_SCHEDULER_*`, beside those all services share."""

    scheduler_policy: PolicyName = Field("aios", description="order of the queue at the start")
    scheduler_queue_per_tenant: int = Field(1000, ge=1, description="calls of one tenant that may wait in a pool")
    scheduler_queue_total: int = Field(10_000, ge=1, description="calls that may wait in a pool in all")
    scheduler_tenant_weights: dict[str, float] = Field(
        default_factory=dict, description="shares of tenants as a JSON object; 1 where none is given"
    )
    scheduler_flood_share: float | None = Field(
        None,
        gt=0,
        description="a tenant that asks for more than four times what the others do may have running at most so many"
        " times what each of them has; protects their pace at the cost of throughput; unlimited where not given",
    )
    scheduler_pools: dict[Name, PoolSettings] = Field(
        default_factory=dict,
        description="what differs in some pools, as a JSON object by pool: `policy`, `tenant_weights`, `flood_share`,"
        " `queue_per_tenant`, `queue_total`",
    )
    scheduler_decision_events: Literal["all", "exceptions", "none"] = Field(
        "exceptions",
        description="decisions published under aios.evt.<tenant>.scheduler: all, which writes one event a call to the"
        " stream of events, or only calls refused and preempted",
    )
    scheduler_listen_s: float = Field(
        1.2, ge=0, description="seconds after the start in which workers are heard before anything is dispatched"
    )

    scheduler_lease_s: float = Field(
        1.6,
        ge=0.4,
        le=30,
        description="seconds without a sign of life of the active scheduler after which a standby takes over",
    )

    @property
    def base(self) -> PoolConfiguration:
        """What holds in a pool of which nothing else is said."""
        return PoolConfiguration(
            self.scheduler_policy,
            QueueLimits(per_tenant=self.scheduler_queue_per_tenant, per_pool=self.scheduler_queue_total),
            self.scheduler_tenant_weights,
            self.scheduler_flood_share,
        )
