"""Which running call is stopped for a waiting one: never one that cannot be resumed, and only where that is cheap.

Only on workers that say they can stop a call so that it goes on later (`WorkerSeen.can_preempt`).
"""

from collections.abc import Iterable, Mapping

from aios_scheduler.core.call import CACHED_WEIGHT, ModelCall
from aios_scheduler.core.queue import CallQueue
from aios_scheduler.core.workers import Worker

SPARE_S = 5.0
"""A call that must itself start within this time is not stopped."""


def cheapest_stop(
    urgent: ModelCall, workers: Iterable[Worker], calls: Mapping[str, ModelCall], now: float
) -> ModelCall | None:
    """The running call whose stop costs least for what it frees; None if none may be stopped, or one is already.

    Lost is the work of computing its prompt and what it has made again; freed is the memory for as long as it would
    still have run.
    """
    best: ModelCall | None = None
    best_cost = 0.0
    for worker in workers:
        if not worker.can_preempt or worker.draining or not worker.serves(urgent.model):
            continue
        for key in sorted(worker.running):
            call = calls.get(key)
            if call is None:
                continue
            if call.preempting:
                return None
            if not call.resumable or call.cancelled or call.priority > urgent.priority:
                continue
            if call.latest_start <= now + SPARE_S or call.deadline <= urgent.deadline:
                continue
            cost = (call.prompt_tokens * CACHED_WEIGHT + call.made) / _left(call)
            if best is None or cost < best_cost:
                best, best_cost = call, cost
    return best


def over_quantum(
    worker: Worker, calls: Mapping[str, ModelCall], queue: CallQueue, first: ModelCall
) -> ModelCall | None:
    """A call of this worker that has used its quantum, while `first` ranks before it."""
    quantum = queue.policy.quantum_tokens
    if quantum is None:
        return None
    waiting = queue.policy.flow_rank(first.flow)
    for key in sorted(worker.running):
        call = calls.get(key)
        if call is None or call.preempting or not call.resumable or call.made - call.made_before < quantum:
            continue
        if waiting < queue.policy.flow_rank(queue.policy.flow(call)):
            return call
    return None


def outranked(
    worker: Worker, calls: Mapping[str, ModelCall], queue: CallQueue, first: ModelCall, now: float
) -> ModelCall | None:
    """A call of a full worker whose priority is lower than that of `first`, and that the policy ranks behind it.

    The lowest of them, and of those the one that would run longest; none while another is being stopped.
    """
    if worker.in_use < worker.limit or not worker.ready or worker.draining or now < worker.paused_until:
        return None
    waiting = queue.policy.flow_rank(first.flow)
    found: ModelCall | None = None
    for key in sorted(worker.running):
        call = calls.get(key)
        if call is None:
            continue
        if call.preempting:
            return None
        if not call.resumable or call.cancelled or call.priority >= first.priority:
            continue
        if call.latest_start <= now + SPARE_S or waiting >= queue.policy.flow_rank(queue.policy.flow(call)):
            continue
        if found is None or (call.priority, -_left(call)) < (found.priority, -_left(found)):
            found = call
    return found


def _left(call: ModelCall) -> float:
    return max(1.0, (call.max_tokens or call.expected_output) - call.made)
