"""Every workload at every load under every strategy and seed, in as many processes as there are cores."""

import math
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace

from simulation.run import Simulation
from simulation.strategies import STRATEGIES
from simulation.workloads import WORKLOADS

T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Student's t for a 95 % interval of the mean, by number of samples."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run; `programs` is the workload's own number where it is None."""

    workload: str
    load: float
    strategy: str
    seed: int
    programs: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run gave, in seconds of virtual time; `hit` is the share of prompt tokens found in the cache."""

    mean_s: float
    p95_s: float
    hit: float
    refused: int


@dataclass(frozen=True, slots=True)
class Summary:
    """All seeds of one workload, load and strategy: means, and the half width of their 95 % interval."""

    mean_s: float
    mean_ci_s: float
    p95_s: float
    p95_ci_s: float
    hit: float
    by_seed: tuple[float, ...]


def measure(cell: Cell) -> tuple[Cell, Measured]:
    workload = WORKLOADS[cell.workload]
    if cell.programs is not None:
        workload = replace(workload, programs=cell.programs)
    programs = workload.generate(cell.load, cell.seed)
    try:
        outcome = Simulation(programs, STRATEGIES[cell.strategy], seed=cell.seed).run()
    except RuntimeError as error:
        error.add_note(str(cell))
        raise
    times = sorted(outcome.completion_s.values())
    computed = outcome.prefilled_tokens + outcome.cached_tokens
    refused = sum(call.refused for call in outcome.calls)
    p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
    return cell, Measured(statistics.mean(times), p95, outcome.cached_tokens / computed, refused)


def measure_all(cells: Iterable[Cell], processes: int | None = None) -> dict[Cell, Measured]:
    """Runs all cells; the longest workloads first, so that no core is left alone with one at the end."""
    ordered = sorted(cells, key=lambda cell: (cell.strategy != "aios-rr", cell.workload, -cell.load))
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        futures = [pool.submit(measure, cell) for cell in ordered]
        measured = {}
        for future in as_completed(futures):
            try:
                cell, found = future.result()
            except RuntimeError as error:
                # A strategy that came to a standstill has no completion to report; the others do.
                print(f"left out: {error} {getattr(error, '__notes__', '')}", file=sys.stderr, flush=True)
            else:
                measured[cell] = found
        return measured


def interval(values: Sequence[float]) -> float:
    """Half width of the 95 % interval of the mean."""
    if len(values) < 2:
        return math.nan
    return T_95.get(len(values), 2.0) * statistics.stdev(values) / math.sqrt(len(values))


def summarise(measured: dict[Cell, Measured]) -> dict[tuple[str, float, str], Summary]:
    """All seeds together."""
    groups: dict[tuple[str, float, str], list[tuple[int, Measured]]] = {}
    for cell, found in measured.items():
        groups.setdefault((cell.workload, cell.load, cell.strategy), []).append((cell.seed, found))
    summaries = {}
    for key, found_by_seed in groups.items():
        runs = [found for _, found in sorted(found_by_seed, key=lambda pair: pair[0])]
        means, tails = [run.mean_s for run in runs], [run.p95_s for run in runs]
        summaries[key] = Summary(
            statistics.mean(means),
            interval(means),
            statistics.mean(tails),
            interval(tails),
            statistics.mean(run.hit for run in runs),
            tuple(means),
        )
    return summaries


def as_json(summaries: dict[tuple[str, float, str], Summary]) -> list[dict[str, object]]:
    return [
        {"workload": workload, "load": load, "strategy": strategy, **asdict(summary)}
        for (workload, load, strategy), summary in sorted(summaries.items())
    ]
