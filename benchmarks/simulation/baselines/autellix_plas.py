"""Autellix's program-level attained service (Luo et al., arXiv 2502.13965): PLAS over discrete queues.

A call inherits its program's attained service, which puts it in one of eight queues with exponentially growing bounds;
first come, first served within a queue. Programs with calls of more than 2 048 prompt tokens stay with their engine,
shorter ones go to the least loaded. A program that has waited three times as long as it has been served is promoted to
the first queue. Attained service is in seconds of running.
"""

import math

from simulation.baselines.queued import Queued
from simulation.model import Fleet, Order, SimCall

FIRST_QUEUE_S = 2.0
QUEUES = 8
LOCAL_TOKENS = 2048
STARVED = 3.0


class AutellixPlas(Queued):
    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._attained: dict[str, float] = {}
        self._waited: dict[str, float] = {}
        self._homes: dict[str, int] = {}
        self._started: dict[str, float] = {}

    def rank(self, call: SimCall, now: float) -> tuple[float, ...]:
        attained = self._attained.get(call.program.name, 0.0)
        if attained and self._waited.get(call.program.name, 0.0) > STARVED * attained:
            return (0.0, call.arrived)
        queue = 0 if attained < FIRST_QUEUE_S else min(QUEUES - 1, 1 + int(math.log2(attained / FIRST_QUEUE_S)))
        return (float(queue), call.arrived)

    def route(self, call: SimCall) -> int | None:
        home = self._homes.get(call.program.name)
        if home is not None and call.spec.prompt_tokens > LOCAL_TOKENS:
            return home if self.fits(call, home) else None
        return super().route(call)

    def started(self, call: SimCall, worker: int) -> None:
        name = call.program.name
        self._homes[name] = worker
        self._started[call.key] = self.fleet.now
        self._waited[name] = self._waited.get(name, 0.0) + self.fleet.now - call.arrived

    def ended(self, call: SimCall, now: float) -> list[Order]:
        name = call.program.name
        self._attained[name] = self._attained.get(name, 0.0) + now - self._started.pop(call.key)
        return super().ended(call, now)
