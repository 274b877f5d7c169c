"""What an ordering policy decides: the flow a call waits in, the rank of flows, and the rank of a call in its flow."""

from typing import ClassVar

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.accounting import Accounts
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.learnt import Learnt

Rank = tuple[float, ...]
Flow = tuple[str, ...]


class Policy:
    """Orders waiting calls in two levels; the lowest rank runs first.

    A call's flow and its rank in it are fixed when it is queued. A flow's rank may change whenever weighted tokens are
    charged to its program or tenant; it never falls while the flow has calls.

    Attributes:
        name: as in `scheduler.policy`.
        keeps_residents: programs keep their place on a worker between calls.
        overrides_deadlines: calls about to miss their deadline jump the queue.
        quantum_tokens: output tokens after which a call may be preempted for one that ranks before it; None is never.
    """

    name: ClassVar[PolicyName]
    keeps_residents: ClassVar[bool] = False
    overrides_deadlines: ClassVar[bool] = False
    quantum_tokens: ClassVar[int | None] = None

    def __init__(self, accounts: Accounts, learnt: Learnt) -> None:
        self._accounts = accounts
        self._learnt = learnt

    def flow(self, call: ModelCall) -> Flow:
        """The flow a call waits in; one for all unless said otherwise."""
        return ()

    def flow_rank(self, flow: Flow) -> Rank:
        """The flow's rank now."""
        return ()

    def rank(self, call: ModelCall) -> Rank:
        """The call's rank in its flow; no two calls may share one."""
        return (call.order,)
