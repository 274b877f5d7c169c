"""In which order waiting calls run: one policy a file, on one base."""

from aios_proto.errors import InvalidRequest
from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.accounting import Accounts
from aios_scheduler.core.learnt import Learnt
from aios_scheduler.core.policies.aios import Aios
from aios_scheduler.core.policies.base import Flow, Policy, Rank
from aios_scheduler.core.policies.edf import EarliestDeadline
from aios_scheduler.core.policies.fair import Fair
from aios_scheduler.core.policies.fifo import Fifo
from aios_scheduler.core.policies.las import LeastAttained
from aios_scheduler.core.policies.priority import Priority
from aios_scheduler.core.policies.rr import RoundRobin

__all__ = ["Flow", "Policy", "Rank", "make_policy"]

_POLICIES: dict[PolicyName, type[Policy]] = {
    policy.name: policy for policy in (Fifo, RoundRobin, Priority, Fair, LeastAttained, EarliestDeadline, Aios)
}


def make_policy(name: PolicyName, accounts: Accounts, learnt: Learnt) -> Policy:
    """The policy of that name.

    Raises:
        InvalidRequest: this scheduler has none of that name.
    """
    if name not in _POLICIES:
        known = ", ".join(sorted(_POLICIES))
        raise InvalidRequest(f"this scheduler has no policy {name!r}; it has {known}", field="policy")
    return _POLICIES[name](accounts, learnt)
