"""What an operator sets for one pool."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aios_proto.messages.scheduler import PolicyName, PoolSettings, QueueLimits

DEFAULT_POOL = "default"
"""Where calls wait for which no pool is known yet."""


@dataclass(frozen=True, slots=True)
class PoolConfiguration:
    """How a pool's calls are ordered and bounded.

    Attributes:
        policy: name of the ordering policy.
        limits: bounds of its queue.
        weights: of tenants, 1 where none is given.
        flood_share: see `isolation`; None sets no bound.
    """

    policy: PolicyName
    limits: QueueLimits = field(default_factory=QueueLimits)
    weights: Mapping[str, float] = field(default_factory=dict)
    flood_share: float | None = None

    def with_settings(self, settings: PoolSettings) -> "PoolConfiguration":
        """The same with what is given there in place of it."""
        limits = {"per_tenant": settings.queue_per_tenant, "per_pool": settings.queue_total}
        given = {name: value for name, value in limits.items() if value is not None}
        return replace(
            self,
            policy=settings.policy or self.policy,
            limits=self.limits.model_copy(update=given),
            weights=self.weights if settings.tenant_weights is None else dict(settings.tenant_weights),
            flood_share=self.flood_share if settings.flood_share is None else settings.flood_share or None,
        )


@dataclass(frozen=True, slots=True)
class Configuration:
    """That of each pool which has one of its own, and that of all others."""

    default: PoolConfiguration
    pools: Mapping[str, PoolConfiguration] = field(default_factory=dict)

    def of(self, pool: str) -> PoolConfiguration:
        """What holds in a pool."""
        return self.pools.get(pool, self.default)
