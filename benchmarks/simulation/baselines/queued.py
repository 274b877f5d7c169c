"""What policies with a queue of their own in front of the engines share: give out as much as the engines can admit."""

import heapq

from simulation.baselines.routing import Quiet
from simulation.model import Fleet, Order, SimCall, Start


class Queued(Quiet):
    """Calls wait here in the order of `rank` and leave when an engine has room for the first."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._heap: list[tuple[tuple[float, ...], int, SimCall]] = []
        self._turn = 0

    def rank(self, call: SimCall, now: float) -> tuple[float, ...]:
        """The lowest goes first. It may rise while a call waits, not fall."""
        raise NotImplementedError

    def route(self, call: SimCall) -> int | None:
        """The engine for a call; None if it must wait."""
        least = self.least_loaded
        return least if self.fits(call, least) else None

    def arrived(self, call: SimCall, now: float) -> list[Order]:
        self.push(call, now)
        return self.dispatch(now)

    def ended(self, call: SimCall, now: float) -> list[Order]:
        assert call.worker is not None
        self.left(call, call.worker)
        return self.dispatch(now)

    def push(self, call: SimCall, now: float) -> None:
        self._turn += 1
        heapq.heappush(self._heap, (self.rank(call, now), self._turn, call))

    def dispatch(self, now: float) -> list[Order]:
        orders: list[Order] = []
        while self._heap:
            rank, turn, call = self._heap[0]
            current = self.rank(call, now)
            if current > rank:
                heapq.heapreplace(self._heap, (current, turn, call))
                continue
            worker = self.route(call)
            if worker is None:
                break
            heapq.heappop(self._heap)
            self.took(call, worker)
            self.started(call, worker)
            call.worker = worker
            orders.append(Start(call, worker))
        return orders

    def started(self, call: SimCall, worker: int) -> None:
        """A call was given to an engine."""
