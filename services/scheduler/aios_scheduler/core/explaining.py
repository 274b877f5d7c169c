"""Why a call waits, in words for whoever asks."""

import heapq
from collections.abc import Iterable

from aios_scheduler.core.call import CallState, ModelCall
from aios_scheduler.core.chains import Chains
from aios_scheduler.core.pool import Pool
from aios_scheduler.core.pools import Pools
from aios_scheduler.core.workers import Worker


class Explaining:
    """Reads the core's state; changes nothing.

    Args:
        pools: queues, workers, memory, accounts.
        chains: what waits for what.
    """

    def __init__(self, pools: Pools, chains: Chains) -> None:
        self._pools = pools
        self._chains = chains

    def next_calls(self, limit: int) -> list[ModelCall]:
        """The waiting calls that come first in their pool's order as it stands now, of all pools in turn.

        Costs O(n log limit).
        """
        firsts = [heapq.nsmallest(limit, pool.queue, key=pool.queue.key) for pool in self._pools]
        fair = max(1, limit // max(1, sum(bool(calls) for calls in firsts)))
        return [call for calls in firsts for call in calls[:fair]]

    def why(self, call: ModelCall, now: float) -> str | None:
        """Why a call waits; None if it does not. Costs O(workers)."""
        if call.state is CallState.HELD:
            return "waits for " + ", ".join(self._chains.waits_for(call))
        if call.state is CallState.CHECKING:
            return "its worker was lost; whether it had ended is being looked up"
        if call.state is not CallState.QUEUED:
            return None
        pool = self._pools.of(call)
        able = [worker for worker in pool.workers if worker.serves(call.model)]
        able = [worker for worker in able if worker.ready and not worker.draining]
        if not able:
            where = f" in pool {pool.name}" if call.bound else ""
            return f"no worker{where} that serves its model is ready"
        return f"{self._obstacle(pool, call, able, now)}; {len(pool.queue)} calls wait"

    def _obstacle(self, pool: Pool, call: ModelCall, able: list[Worker], now: float) -> str:
        assignment = pool.assignment
        if not assignment.isolation.allows(call.tenant, call.needs, now, assignment.residency.capacity):
            return f"tenant {call.tenant} asks for far more than the others and has its share running"
        homes = assignment.residency.homes(call.program_id)
        home = [worker for worker in able if worker.id in homes]
        asked = home or able
        where = f"worker {home[0].id[1]}, where its program's context is," if home else "every worker"
        paused = [worker for worker in asked if now < worker.paused_until]
        if len(paused) == len(asked):
            return f"{where} was overloaded and is left alone for {paused[0].paused_until - now:.1f} s"
        if all(worker.in_use >= worker.limit for worker in asked):
            return f"{where} has all its slots in use"
        return f"{where} {_memory(pool, call, asked)}"


def _memory(pool: Pool, call: ModelCall, asked: Iterable[Worker]) -> str:
    """The most room there is on one worker, against what the call needs."""
    free, residents = 0, 0
    for worker in asked:
        house = pool.assignment.residency.houses.get(worker.id)
        if house is None or house.capacity is None:
            continue
        if residents == 0 or house.capacity - house.used > free:
            free, residents = max(0, house.capacity - house.used), len(house.residents)
    if call.needs <= free:
        return f"has room for its {call.needs} tokens, but calls before it need more"
    return f"lacks memory: {call.needs} tokens are needed, {free} are free beside {residents} programs"
