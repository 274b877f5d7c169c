"""W6: what a flooding tenant takes from the others, and how evenly tenants that all want more are served."""

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from simulation.aios_core import AiosCore
from simulation.model import Fleet, ProgramSpec, Strategy
from simulation.run import WINDOW_S, Outcome, Simulation
from simulation.strategies import STRATEGIES
from simulation.workloads import WORKLOADS

ISOLATED = "aios, flood share 1"
"""The scheduler with `AIOS_SCHEDULER_FLOOD_SHARE=1`."""

BESIDE_LOAD = 1.2
BACKLOGGED_LOAD = 6.0
BACKLOGGED_CALLS = 9000


@dataclass(frozen=True, slots=True)
class Fairness:
    """One strategy on one seed.

    Attributes:
        slowdown: mean time of a light tenant's call beside the flood, over that without the flood.
        slowdown_equal: the same over that beside ten more light tenants, who send together what the flooder does.
        flood_s: mean time of a call of the flooding tenant.
        first_token_added_s: mean time to the first token beside the flood, less that without.
        jain: mean over windows of Jain's index of the service of tenants that always had a call waiting.
        windows: how many windows that is.
    """

    slowdown: float
    slowdown_equal: float
    flood_s: float
    first_token_added_s: float
    jain: float
    windows: int


def fairness_of(job: tuple[str, int]) -> Fairness:
    """The same for a strategy's name, or `ISOLATED`, and a seed."""
    name, seed = job
    return measure_fairness(partial(AiosCore, flood_share=1.0) if name == ISOLATED else STRATEGIES[name], seed)


def measure_fairness(strategy: Callable[[Fleet], Strategy], seed: int) -> Fairness:
    programs = WORKLOADS["W6"].generate(BESIDE_LOAD, seed)
    quiet = [program for program in programs if program.tenant != "flood"]
    spread = [
        dataclasses.replace(program, tenant=f"other{number % 10}") if program.tenant == "flood" else program
        for number, program in enumerate(programs)
    ]
    outcomes = [Simulation(some, strategy, seed=seed).run() for some in (programs, quiet, spread)]
    beside, alone, equal = (
        _light(outcome, some) for outcome, some in zip(outcomes, (programs, quiet, spread), strict=True)
    )
    flood_s = statistics.mean(
        outcomes[0].completion_s[program.name] for program in programs if program.tenant == "flood"
    )
    index, windows = _jain(strategy, seed)
    return Fairness(beside[0] / alone[0], beside[0] / equal[0], flood_s, beside[1] - alone[1], index, windows)


def _light(outcome: Outcome, programs: list[ProgramSpec]) -> tuple[float, float]:
    light = {program.name for program in programs if program.tenant.startswith("light")}
    calls = [call for call in outcome.calls if call.program.name in light and call.first_token_at is not None]
    first = statistics.mean(call.first_token_at - call.arrived for call in calls if call.first_token_at is not None)
    return statistics.mean(outcome.completion_s[name] for name in light), first


def _jain(strategy: Callable[[Fleet], Strategy], seed: int) -> tuple[float, int]:
    workload = dataclasses.replace(WORKLOADS["W6"], programs=BACKLOGGED_CALLS)
    programs = workload.generate(BACKLOGGED_LOAD, seed)
    outcome = Simulation(programs, strategy, seed=seed, track_service=True).run()
    last = int(outcome.end_s / WINDOW_S)
    indices = []
    for window in range(1, last):
        got = [
            outcome.service[tenant].get(window, 0.0)
            for tenant, windows in outcome.backlogged.items()
            if window in windows
        ]
        if len(got) >= 2:
            indices.append(sum(got) ** 2 / (len(got) * sum(value * value for value in got)))
    return (statistics.mean(indices) if indices else float("nan")), len(indices)
