"""Higher priority first, first come first served within one priority."""

from typing import ClassVar

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.policies.base import Policy, Rank


class Priority(Policy):
    """Strict priorities: a steady flow of urgent calls can starve others; callers choose their priority themselves."""

    name: ClassVar[PolicyName] = "priority"

    def rank(self, call: ModelCall) -> Rank:
        """Its priority, then its turn."""
        return (-call.priority, call.order)
