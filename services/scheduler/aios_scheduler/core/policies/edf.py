"""Earliest deadline first (Liu and Layland, JACM 1973), optimal while everything can be met and bad beyond that."""

from typing import ClassVar

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.policies.base import Policy, Rank


class EarliestDeadline(Policy):
    """The call whose deadline comes first goes first."""

    name: ClassVar[PolicyName] = "edf"

    def rank(self, call: ModelCall) -> Rank:
        """Its deadline."""
        return (call.deadline, call.order)
