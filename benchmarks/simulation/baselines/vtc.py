"""The virtual token counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024).

The tenant with the lowest counter is served next; counters rise by 1 for each input token at admission and by 2 for
each output token (here when the call ends, where the paper counts each step); a tenant that comes back is lifted to
the lowest counter of the others.
"""

from collections import Counter, defaultdict, deque

from simulation.baselines.routing import Quiet
from simulation.model import Fleet, Order, SimCall, Start


class Vtc(Quiet):
    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._counters: Counter[str] = Counter()
        self._last_served = 0
        self._queues: defaultdict[str, deque[SimCall]] = defaultdict(deque)

    def arrived(self, call: SimCall, now: float) -> list[Order]:
        tenant = call.program.tenant
        if not self._queues[tenant]:
            busy = [self._counters[other] for other, queue in self._queues.items() if queue]
            self._counters[tenant] = max(self._counters[tenant], min(busy, default=self._last_served))
        self._queues[tenant].append(call)
        return self._dispatch()

    def ended(self, call: SimCall, now: float) -> list[Order]:
        assert call.worker is not None
        self.left(call, call.worker)
        self._counters[call.program.tenant] += 2 * call.spec.output_tokens
        return self._dispatch()

    def _dispatch(self) -> list[Order]:
        orders: list[Order] = []
        while waiting := [tenant for tenant, queue in self._queues.items() if queue]:
            tenant = min(waiting, key=lambda name: (self._counters[name], self._queues[name][0].arrived))
            call, worker = self._queues[tenant][0], self.least_loaded
            if not self.fits(call, worker):
                break
            self._queues[tenant].popleft()
            self._last_served = self._counters[tenant]
            self.took(call, worker)
            self._counters[tenant] += call.spec.prompt_tokens
            call.worker = worker
            orders.append(Start(call, worker))
        return orders
