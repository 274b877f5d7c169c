"""The default: priority band, then fairness between tenants, then the program that needs least, with residents kept.

Within a tenant the order is by what the program likely still needs, learnt from earlier runs of the same agent: the
shortest remaining time where lengths are known, and least attained service where they are not (a Gittins index with
means for distributions; Scully, "A New Toolbox for Scheduling Theory", 2022). Waiting counts against it: a call is
overtaken only by such calls as arrive within `PATIENCE` times the difference of their work. In a graph of calls the
one with the longest chain behind it goes first.
"""

from typing import ClassVar

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.call import OUTPUT_WEIGHT, ModelCall
from aios_scheduler.core.policies.base import Flow, Policy, Rank

PATIENCE_S_PER_TOKEN = 0.02
"""Seconds of waiting that outweigh one weighted token of work."""

_NAMES = tuple(str(9 - priority) for priority in range(10))
_BANDS = {name: float(name) for name in _NAMES}


class Aios(Policy):
    """See the module."""

    name: ClassVar[PolicyName] = "aios"
    keeps_residents: ClassVar[bool] = True
    overrides_deadlines: ClassVar[bool] = True

    def flow(self, call: ModelCall) -> Flow:
        """Its priority and its tenant."""
        return (_NAMES[call.priority], call.tenant)

    def flow_rank(self, flow: Flow) -> Rank:
        """The priority band, then the tenant's counter."""
        return (_BANDS[flow[0]], self._accounts.tenant(flow[1]).counter)

    def rank(self, call: ModelCall) -> Rank:
        """When it came and what its program needs; then the longer chain first; then its turn."""
        remaining = self._learnt.remaining_work(call.tenant, call.agent, call.step)
        if call.budget_tokens is not None:  # it cannot need more than it may use
            remaining = min(remaining, OUTPUT_WEIGHT * call.budget_tokens)
        remaining = max(call.work, remaining)
        return (call.arrived + PATIENCE_S_PER_TOKEN * remaining, -call.path_work, call.order)
