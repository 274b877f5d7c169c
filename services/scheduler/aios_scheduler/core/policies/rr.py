"""Round robin over programs with a quantum of tokens.

Deficit round robin (Shreedhar and Varghese, SIGCOMM 1995) with the program as the flow: who has had fewer quanta goes
first, in the order of arrival. As in AIOS (arXiv 2403.16971), a call that has used its quantum may be stopped for
others; unlike there, only where the worker can go on with it later and somebody waits.
"""

from typing import ClassVar

from aios_proto.messages.scheduler import PolicyName
from aios_scheduler.core.call import OUTPUT_WEIGHT, ModelCall
from aios_scheduler.core.policies.base import Flow, Policy, Rank

QUANTUM_TOKENS = 256


class RoundRobin(Policy):
    """Programs take turns."""

    name: ClassVar[PolicyName] = "rr"
    quantum_tokens: ClassVar[int | None] = QUANTUM_TOKENS

    def flow(self, call: ModelCall) -> Flow:
        """Its program."""
        return call.program_id

    def flow_rank(self, flow: Flow) -> Rank:
        """Quanta it has had."""
        tenant, agent, program = flow
        known = self._accounts.programs.get((tenant, agent, program))
        return (0.0 if known is None else known.attained // (OUTPUT_WEIGHT * QUANTUM_TOKENS),)
