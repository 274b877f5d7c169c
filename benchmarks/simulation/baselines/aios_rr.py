"""AIOS's round robin (Mei et al., arXiv 2403.16971; `rr_scheduler.py`): time slices with text snapshots.

As its FIFO, but a call that has not ended within the slice is interrupted, its text so far kept by the context manager,
and put at the end of the queue; it goes on by computing prompt and text again, as far as the engine's prefix cache
does not hold them. The slice is one second, as the batch interval.
"""

from simulation.baselines.routing import Quiet
from simulation.model import Fleet, Order, SimCall, Start, Stop

INTERVAL_S = 1.0
SLICE_S = 1.0
LONGEST_SLICE_S = 60.0


class AiosRoundRobin(Quiet):
    """The slice of a call doubles with each turn in which it made nothing, or it would never end under load."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._queue: list[SimCall] = []
        self._open: dict[str, SimCall] = {}
        self._slices: dict[str, float] = {}
        self._made: dict[str, int] = {}
        self._begin_at = 0.0
        self._slice_ends: list[tuple[float, str]] = []
        self._next = 0

    def arrived(self, call: SimCall, now: float) -> list[Order]:
        if not self._queue and not self._open:
            self._begin_at = now + INTERVAL_S
        self._queue.append(call)
        return []

    def ended(self, call: SimCall, now: float) -> list[Order]:
        self._leave(call, now)
        self._slices.pop(call.key, None)
        self._made.pop(call.key, None)
        return []

    def stopped(self, call: SimCall, now: float) -> list[Order]:
        self._leave(call, now)
        if call.made == self._made.get(call.key, 0):
            self._slices[call.key] = min(2 * self._slices.get(call.key, SLICE_S), LONGEST_SLICE_S)
        self._made[call.key] = call.made
        self._queue.append(call)
        return []

    def tick(self, now: float) -> list[Order]:
        if self._open:
            due = [key for end, key in self._slice_ends if end <= now and key in self._open]
            self._slice_ends = [(end, key) for end, key in self._slice_ends if end > now]
            return [Stop(self._open[key]) for key in due]
        if now < self._begin_at or not self._queue:
            return []
        batch, self._queue = self._queue, []
        orders: list[Order] = []
        self._slice_ends = []
        for call in batch:
            self._next = (self._next + 1) % len(self.tokens)
            self._open[call.key] = call
            self._slice_ends.append((now + self._slices.get(call.key, SLICE_S), call.key))
            orders.append(Start(call, self._next))
        return orders

    def next_wake(self, now: float) -> float | None:
        if self._open:
            return min((end for end, _ in self._slice_ends), default=None)
        return self._begin_at if self._queue else None

    def _leave(self, call: SimCall, now: float) -> None:
        self._open.pop(call.key, None)
        if not self._open:
            self._begin_at = now + INTERVAL_S
