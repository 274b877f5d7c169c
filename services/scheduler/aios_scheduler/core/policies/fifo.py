"""First come, first served: the baseline every other policy is measured against."""

from typing import ClassVar

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.policies.base import Policy


class Fifo(Policy):
    """Calls run in the order in which the scheduler had them."""

    name: ClassVar[PolicyName] = "fifo"
