"""llm-d's program-aware scheduling: least attained service of the program, with prefix affinity.

After the proposal in llm-d's inference scheduler for agentic programs: requests carry a program id, the flow-control
queue orders by the program's attained tokens, and the prefix-cache scorer keeps a program on its endpoint unless that
one is saturated. It bounds what runs by the engines' reservations, not by the contexts of all programs under way.
"""

from simulation.baselines.queued import Queued
from simulation.model import Fleet, Order, SimCall


class LlmDProgramAware(Queued):
    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._attained: dict[str, float] = {}
        self._homes: dict[str, int] = {}

    def rank(self, call: SimCall, now: float) -> tuple[float, ...]:
        return (self._attained.get(call.program.name, 0.0), call.arrived)

    def route(self, call: SimCall) -> int | None:
        home = self._homes.get(call.program.name)
        if home is not None and self.fits(call, home):
            return home
        return super().route(call)

    def started(self, call: SimCall, worker: int) -> None:
        self._homes[call.program.name] = worker

    def ended(self, call: SimCall, now: float) -> list[Order]:
        name = call.program.name
        used = call.spec.prompt_tokens - call.cached_tokens + 2 * call.spec.output_tokens
        self._attained[name] = self._attained.get(name, 0.0) + used
        return super().ended(call, now)
