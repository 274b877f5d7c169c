"""On which worker a call runs: where its program's context is, unless that worker is much fuller than another."""

from collections.abc import Iterable

from aios_scheduler.core.call import ProgramId, WorkerId
from aios_scheduler.core.residency import Residency
from aios_scheduler.core.workers import Worker

SPREAD_SHARE = 0.25
"""A program whose calls run side by side moves on to another worker that is emptier by this share of its memory."""


def fullness(worker: Worker, residency: Residency) -> float:
    """Share of a worker that is in use: of its memory where that is known, of its slots else."""
    house = residency.houses.get(worker.id)
    slots = len(worker.running) / worker.limit
    if house is None or not house.capacity:
        return slots
    return max((house.reserved + house.used) / (2 * house.capacity), slots)


def by_load(workers: Iterable[Worker], residency: Residency) -> list[Worker]:
    """Workers, the emptiest first; ties by name, so that runs can be repeated."""
    return sorted(workers, key=lambda worker: (fullness(worker, residency), worker.id))


def home_of(program: ProgramId, residency: Residency) -> WorkerId | None:
    """Where most of a program's context is."""
    homes = residency.homes(program)
    if not homes:
        return None
    return max(homes, key=lambda worker: (homes[worker].context_tokens, homes[worker].running, worker))
