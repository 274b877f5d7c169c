"""Fair between tenants: the virtual token counter.

Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024: the tenant with the lowest counter of weighted
tokens is served next, counters rise as tokens stream, and a tenant that comes back is lifted to the others.
"""

from typing import ClassVar

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.policies.base import Flow, Policy, Rank


class Fair(Policy):
    """The tenant that has had the least for its weight goes first; first come, first served within a tenant."""

    name: ClassVar[PolicyName] = "fair"

    def flow(self, call: ModelCall) -> Flow:
        """Its tenant."""
        return (call.tenant,)

    def flow_rank(self, flow: Flow) -> Rank:
        """The tenant's counter."""
        return (self._accounts.tenant(flow[0]).counter,)
