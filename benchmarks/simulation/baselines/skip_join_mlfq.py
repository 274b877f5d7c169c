"""Skip-join multi-level feedback queue (Wu et al., FastServe, arXiv 2305.05920).

A call joins the queue whose quantum its prefill would just fit, skipping the higher ones; one that has used its
quantum is demoted. Quanta double over six queues from 0.5 s. Preempted calls go on from their prompt here: the paper
keeps their KV in host memory, which the emulator does not model, so only calls for which somebody of a higher queue
waits are stopped.
"""

import math

from simulation.baselines.queued import Queued
from simulation.model import Fleet, Order, SimCall, Stop

FIRST_QUANTUM_S = 0.5
QUEUES = 6
PREFILL_S_PER_TOKEN = 2e-5
CHECK_S = 0.25


class SkipJoinMlfq(Queued):
    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._level: dict[str, int] = {}
        self._running: dict[str, tuple[SimCall, float]] = {}
        self._stopping: set[str] = set()
        self._check_at = 0.0

    def rank(self, call: SimCall, now: float) -> tuple[float, ...]:
        return (float(self._level[call.key]), call.arrived)

    def arrived(self, call: SimCall, now: float) -> list[Order]:
        prefill_s = PREFILL_S_PER_TOKEN * call.spec.prompt_tokens
        skipped = max(0, math.ceil(math.log2(max(prefill_s, 1e-3) / FIRST_QUANTUM_S)))
        self._level[call.key] = min(QUEUES - 1, skipped)
        return super().arrived(call, now)

    def started(self, call: SimCall, worker: int) -> None:
        self._running[call.key] = (call, self.fleet.now)

    def ended(self, call: SimCall, now: float) -> list[Order]:
        self._running.pop(call.key, None)
        self._stopping.discard(call.key)
        del self._level[call.key]
        return super().ended(call, now)

    def stopped(self, call: SimCall, now: float) -> list[Order]:
        known, _ = self._running.pop(call.key)
        self._stopping.discard(call.key)
        worker = self._worker[call.key]
        self.left(known, worker)
        self.push(call, now)
        return self.dispatch(now)

    def took(self, call: SimCall, worker: int) -> None:
        super().took(call, worker)
        self._worker[call.key] = worker

    @property
    def _worker(self) -> dict[str, int]:
        if not hasattr(self, "_workers"):
            self._workers: dict[str, int] = {}
        return self._workers

    def tick(self, now: float) -> list[Order]:
        self._check_at = now + CHECK_S
        if not self._heap:
            return []
        first = self._level[self._heap[0][2].key]
        orders: list[Order] = []
        for key, (call, since) in self._running.items():
            if key in self._stopping:
                continue
            level = self._level[key]
            if now - since >= FIRST_QUANTUM_S * 2**level and level < QUEUES - 1:
                self._level[key] = level = level + 1
                self._running[key] = (call, now)
            if level > first and not self._stopping and call.first_token_at is not None:
                self._stopping.add(key)
                orders.append(Stop(call))
        return orders

    def next_wake(self, now: float) -> float | None:
        return max(self._check_at, now) if self._heap and self._running else None
