"""W7: the share of calls that met what was due: first token in 2 s, task in 30 s, batch in an hour."""

import dataclasses
from collections import Counter
from collections.abc import Callable

from simulation.model import Fleet, SimCall, Strategy
from simulation.run import Simulation
from simulation.workloads import WORKLOADS

CALLS = 3000
LOADS = (0.9, 1.2, 1.5)


def met(call: SimCall) -> bool:
    if call.refused or call.ended_at is None or call.first_token_at is None:
        return False
    if call.spec.first_token_s is not None:
        return call.first_token_at - call.arrived <= call.spec.first_token_s
    return call.spec.deadline_s is None or call.ended_at - call.arrived <= call.spec.deadline_s


def measure_due(strategy: Callable[[Fleet], Strategy], load: float, seed: int) -> dict[str, float]:
    """Shares by kind of call, and of `all`."""
    workload = dataclasses.replace(WORKLOADS["W7"], programs=CALLS)
    outcome = Simulation(workload.generate(load, seed), strategy, seed=seed).run()
    total: Counter[str] = Counter()
    good: Counter[str] = Counter()
    for call in outcome.calls:
        for kind in (call.program.agent, "all"):
            total[kind] += 1
            good[kind] += met(call)
    return {kind: good[kind] / count for kind, count in total.items()}
