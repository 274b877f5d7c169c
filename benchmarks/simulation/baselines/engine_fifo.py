"""The engine's own FIFO queue behind a router: round robin, least loaded, or prefix affinity.

This is how inference servers are used today: every call goes to an engine at once and waits in the engine's queue
(text-generation-inference `queue.rs`; vLLM V1 scheduler, policy `fcfs`). Prefix affinity sends a program's calls to the
engine that served it before, unless that has more than 1.5 times the tokens of the least loaded one plus 20 000.
"""

from typing import Literal

from simulation.baselines.routing import Quiet
from simulation.model import Fleet, Order, SimCall, Start

Routing = Literal["round_robin", "least_loaded", "affinity"]


class EngineFifo(Quiet):
    def __init__(self, fleet: Fleet, routing: Routing) -> None:
        super().__init__(fleet)
        self._routing = routing
        self._next = 0
        self._homes: dict[str, int] = {}

    def arrived(self, call: SimCall, now: float) -> list[Order]:
        worker = self._route(call)
        self.took(call, worker)
        return [Start(call, worker)]

    def ended(self, call: SimCall, now: float) -> list[Order]:
        assert call.worker is not None
        self.left(call, call.worker)
        return []

    def _route(self, call: SimCall) -> int:
        if self._routing == "round_robin":
            self._next = (self._next + 1) % len(self.tokens)
            return self._next
        least = self.least_loaded
        if self._routing == "affinity":
            home = self._homes.get(call.program.name, least)
            if self.tokens[home] > 1.5 * self.tokens[least] + 20_000:
                home = least
            self._homes[call.program.name] = home
            return home
        return least
