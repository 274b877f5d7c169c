"""Least attained service of the program.

Program-level attained service is Autellix's PLAS (Luo et al., arXiv 2502.13965); without knowledge of lengths it is the
best guess where service times vary much (Nuyens and Wierman, "The Foreground-Background queue", 2008).
"""

from typing import ClassVar

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.call import ModelCall
from aios_scheduler.core.policies.base import Flow, Policy, Rank


class LeastAttained(Policy):
    """The program that has had the least goes first."""

    name: ClassVar[PolicyName] = "las"
    keeps_residents: ClassVar[bool] = True

    def flow(self, call: ModelCall) -> Flow:
        """Its program."""
        return call.program_id

    def flow_rank(self, flow: Flow) -> Rank:
        """Weighted tokens it has had."""
        tenant, agent, program = flow
        known = self._accounts.programs.get((tenant, agent, program))
        return (0.0 if known is None else known.attained,)
