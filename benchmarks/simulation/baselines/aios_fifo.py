"""AIOS's FIFO scheduler (Mei et al., arXiv 2403.16971; `fifo_scheduler.py`): batches with a barrier.

Model calls are collected for one second, the batch is given to the models in turn, and the next batch starts when all
of it has ended.
"""

from simulation.baselines.routing import Quiet
from simulation.model import Fleet, Order, SimCall, Start

INTERVAL_S = 1.0


class AiosFifo(Quiet):
    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._queue: list[SimCall] = []
        self._open = 0
        self._due = 0.0
        self._next = 0

    def arrived(self, call: SimCall, now: float) -> list[Order]:
        if not self._queue and not self._open:
            self._due = now + INTERVAL_S
        self._queue.append(call)
        return []

    def ended(self, call: SimCall, now: float) -> list[Order]:
        self._open -= 1
        if not self._open:
            self._due = now + INTERVAL_S
        return []

    def tick(self, now: float) -> list[Order]:
        if self._open or now < self._due:
            return []
        batch, self._queue = self._queue, []
        self._open = len(batch)
        orders: list[Order] = []
        for call in batch:
            self._next = (self._next + 1) % len(self.tokens)
            orders.append(Start(call, self._next))
        return orders

    def next_wake(self, now: float) -> float | None:
        return self._due if self._queue and not self._open else None
