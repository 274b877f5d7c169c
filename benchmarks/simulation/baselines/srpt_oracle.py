"""An upper bound nobody can build: shortest remaining program first, with every length and every end known.

It knows each program's remaining GPU seconds and its largest context, keeps admitted programs on their engine, and
admits only as many as fit there (Schrage 1968 for the order; it is optimal for one server and no memory, and a strong
bound here).
"""

import heapq

from simulation.baselines.routing import Quiet
from simulation.model import Fleet, Order, SimCall, Start

KV_SHARE = 0.97


class SrptOracle(Quiet):
    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._homes: dict[str, int] = {}
        self._held = [0] * len(fleet.engines)
        self._footprint: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self._heap: list[tuple[float, int, SimCall]] = []
        self._turn = 0

    def arrived(self, call: SimCall, now: float) -> list[Order]:
        name = call.program.name
        if name in self._homes:
            return [Start(call, self._homes[name])]
        self._turn += 1
        heapq.heappush(self._heap, (_work(call), self._turn, call))
        return self._admit()

    def ended(self, call: SimCall, now: float) -> list[Order]:
        name = call.program.name
        self._left[name] = self._left.get(name, len(call.program.calls)) - 1
        worker = self._homes[name]
        after = 0 if not self._left[name] else self._estimate(call)
        self._held[worker] += after - self._footprint[name]
        self._footprint[name] = after
        if not self._left[name]:
            del self._homes[name]
        return self._admit()

    def _estimate(self, call: SimCall) -> int:
        """KV the program will occupy: the mean of its present and its last context, or four calls of a graph."""
        calls = call.program.calls
        if len(calls) > 1 and any(len(spec.after) != 1 for spec in calls[1:]):
            return max(spec.prompt_tokens + spec.max_tokens for spec in calls) * min(4, len(calls))
        following = min(call.spec.index + 1, len(calls) - 1)
        now, last = calls[following].prompt_tokens + calls[following].output_tokens, calls[-1].prompt_tokens
        return max(now, (now + last) // 2)

    def _admit(self) -> list[Order]:
        orders: list[Order] = []
        while self._heap:
            _, _, call = self._heap[0]
            name = call.program.name
            if name not in self._homes:
                worker = min(range(len(self._held)), key=lambda number: (self._held[number], number))
                need = max(self._estimate(call), call.spec.prompt_tokens + call.spec.max_tokens)
                if self._held[worker] + need > KV_SHARE * self.fleet.engines[worker].kv_tokens:
                    break
                self._homes[name] = worker
                self._held[worker] += need
                self._footprint[name] = need
            heapq.heappop(self._heap)
            orders.append(Start(call, self._homes[name]))
        return orders


def _work(call: SimCall) -> float:
    total = 0.0
    seen = 0
    for spec in call.program.calls[call.spec.index :]:
        total += 1.7e-5 * max(1, spec.prompt_tokens - seen) + 4e-4 * spec.output_tokens
        seen = spec.prompt_tokens
    return total
