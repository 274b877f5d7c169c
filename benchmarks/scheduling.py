"""The scheduler against published policies, on emulated GPUs in virtual time.

    make bench-scheduling            # table, plots and results/scheduling.json
    make bench-scheduling CHECK=1    # exit status 1 if a bar is missed
    python benchmarks/scheduling.py --workloads W4 --seeds 2    # a part of it

Two emulated H100 with an 8-billion-parameter model (`aios_engine.emulator`) serve seeded workloads
(`simulation/workloads.py`) under each policy of `simulation/baselines/` and under the very core object the scheduler
runs (`simulation/aios_core.py`). The completion of a program counts from its arrival to its last result.

A cell (workload and load) counts as past the thrash point where the prefixes of the programs under way no longer fit
the KV caches: the share of prompt tokens that the affinity-routed engine queue finds cached is below 80 % of what it
is at load 0.5. Bars over several cells take the worst of them.
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

from report import Bar, Report, read_options
from simulation.cost import QUEUED, measure_cost
from simulation.due import LOADS as DUE_LOADS
from simulation.due import measure_due
from simulation.fairness import BESIDE_LOAD, ISOLATED, fairness_of
from simulation.grid import Cell, Summary, as_json, interval, measure_all, summarise
from simulation.plots import plot_completion, plot_due
from simulation.real_clock import measure_real_clock
from simulation.strategies import BASELINES, ORACLE, OURS, STRATEGIES
from simulation.workloads import WORKLOADS

LOADS = (0.5, 0.75, 0.9, 1.0, 1.2)
GRID = ("W1", "W3", "W4", "W34", "W5")
OTHERS = ("long", "W6", "W7", "cost", "real")
THRASHING = ("W3", "W4", "W34")
SEEDS = 5
LONG = 450
THRASH_SHARE = 0.8

PLAIN = ("aios-fifo", "aios-rr", "engine-fifo+least")
LLM_D = "llm-d-las+affinity"
AFFINITY = "engine-fifo+affinity"

Summaries = dict[tuple[str, float, str], Summary]


def past_thrash(found: Summaries, workloads: tuple[str, ...]) -> list[tuple[str, float]]:
    """The cells in which even with affinity the contexts no longer fit."""
    return [
        (workload, load)
        for workload in workloads
        if workload in THRASHING
        for load in LOADS
        if found[workload, load, AFFINITY].hit < THRASH_SHARE * found[workload, LOADS[0], AFFINITY].hit
    ]


def grid_bars(report: Report, found: Summaries, workloads: tuple[str, ...]) -> None:
    for workload in workloads:
        for load in LOADS:
            ours = found[workload, load, OURS]
            best = min(BASELINES, key=lambda name: found[workload, load, name].mean_s)
            report.rows.append(
                (
                    f"{workload} {load}",
                    f"{ours.mean_s:.1f} ± {ours.mean_ci_s:.1f} s",
                    f"{ours.p95_s:.1f} s",
                    *(f"{found[workload, load, name].mean_s / ours.mean_s:.2f}" for name in (*PLAIN, LLM_D)),
                    f"{best} {found[workload, load, best].mean_s / ours.mean_s:.2f}",
                    f"{ours.mean_s / found[workload, load, ORACLE].mean_s:.2f}",
                )
            )
    cells = past_thrash(found, workloads)
    report.figures["past_thrash"] = [f"{workload} at {load}" for workload, load in cells]
    if cells:
        for name in PLAIN:
            worst = min(_ratio(found, cell, name) for cell in cells)
            report.bars.append(Bar(f"{name} over aios, mean, past thrash", worst, 3.0, "x", at_most=False))
        for name in PLAIN:
            worst = min(found[(*cell, name)].p95_s / found[(*cell, OURS)].p95_s for cell in cells)
            report.bars.append(Bar(f"{name} over aios, p95, past thrash", worst, 2.5, "x", at_most=False))
        worst = min(_ratio(found, cell, LLM_D) for cell in cells)
        report.bars.append(Bar(f"{LLM_D} over aios, mean, past thrash", worst, 2.0, "x", at_most=False))
        worst = max(1 / _ratio(found, cell, ORACLE) for cell in cells)
        report.bars.append(Bar("aios over the oracle, mean, past thrash", worst, 1.5, "x"))
    worst = max(
        found[workload, load, OURS].mean_s / min(found[workload, load, name].mean_s for name in BASELINES)
        for workload in workloads
        for load in LOADS
    )
    report.bars.append(Bar("aios over the best baseline, mean, any cell", worst, 1.03, "x"))


def _ratio(found: Summaries, cell: tuple[str, float], name: str) -> float:
    return found[(*cell, name)].mean_s / found[(*cell, OURS)].mean_s


def long_bars(report: Report, seeds: int) -> None:
    """The same overload for three times as long: queues that grow show what a policy loses for good."""
    names = (LLM_D, ORACLE, OURS)
    cells = [Cell("W4", LOADS[-1], name, seed, LONG) for seed in range(seeds) for name in names]
    found = measure_all(cells)
    means = {name: statistics.mean(found[cell].mean_s for cell in cells if cell.strategy == name) for name in names}
    report.figures["long"] = {"programs": LONG, "mean_s": means}
    report.rows.append(
        (
            f"W4 {LOADS[-1]}, {LONG} programs",
            f"{means[OURS]:.1f} s",
            *("",) * (1 + len(PLAIN)),
            f"{means[LLM_D] / means[OURS]:.2f}",
            "",
            f"{means[OURS] / means[ORACLE]:.2f}",
        )
    )
    ratio = means[LLM_D] / means[OURS]
    report.bars.append(Bar(f"{LLM_D} over aios, mean, W4 at {LOADS[-1]}, {LONG} programs", ratio, 2.0, "x", False))
    ratio = means[OURS] / means[ORACLE]
    report.bars.append(Bar(f"aios over the oracle, mean, W4 at {LOADS[-1]}, {LONG} programs", ratio, 1.5, "x"))


def fairness_bars(report: Report, seeds: int) -> None:
    names = ("engine-fifo+least", "vtc", OURS, ISOLATED)
    jobs = [(name, seed) for name in names for seed in range(seeds)]
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(fairness_of, jobs))
    runs = {name: [run for (known, _), run in zip(jobs, found, strict=True) if known == name] for name in names}
    report.figures["fairness"] = {
        name: {
            key: [getattr(run, key) for run in some]
            for key in ("slowdown", "slowdown_equal", "flood_s", "first_token_added_s", "jain", "windows")
        }
        for name, some in runs.items()
    }
    ours, isolated = runs[OURS], runs[ISOLATED]
    for name, some in runs.items():
        report.rows.append(
            (
                f"W6 {BESIDE_LOAD} {name}",
                f"Jain {statistics.mean(run.jain for run in some):.4f}",
                f"slowed {statistics.mean(run.slowdown for run in some):.2f}",
                f"beside equals {statistics.mean(run.slowdown_equal for run in some):.2f}",
                f"first token +{1000 * statistics.mean(run.first_token_added_s for run in some):.0f} ms",
                f"the flood itself {statistics.mean(run.flood_s for run in some):.0f} s",
                "",
                "",
                "",
            )
        )
    for name, some in ((OURS, ours), (ISOLATED, isolated)):
        report.bars.append(Bar(f"W6 {name}: Jain's index, worst seed", min(run.jain for run in some), 0.99, "", False))
    slow = max(run.slowdown for run in isolated)
    report.bars.append(Bar(f"W6 {ISOLATED}: light tenant beside the flood over alone, worst seed", slow, 1.25, "x"))
    slow = max(run.slowdown_equal for run in ours)
    report.bars.append(Bar(f"W6 {OURS}: the same over beside equals of the same load, worst seed", slow, 1.25, "x"))


def due_bars(report: Report, seeds: int) -> None:
    names = [*BASELINES, OURS]
    jobs = [(name, load, seed) for name in names for load in DUE_LOADS for seed in range(seeds)]
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(_due, jobs))
    shares: dict[tuple[str, float], list[dict[str, float]]] = {}
    for (name, load, _), share in zip(jobs, found, strict=True):
        shares.setdefault((name, load), []).append(share)
    means = {key: statistics.mean(run["all"] for run in runs) for key, runs in shares.items()}
    report.figures["deadlines"] = [
        {"strategy": name, "load": load, "all": means[name, load], "by_seed": runs}
        for (name, load), runs in shares.items()
    ]
    for load in DUE_LOADS:
        best = max(BASELINES, key=lambda name: means[name, load])
        report.rows.append(
            (
                f"W7 {load}",
                f"aios {means[OURS, load]:.1%} met",
                f"± {interval([run['all'] for run in shares[OURS, load]]):.1%}",
                *(f"{means[name, load]:.1%}" for name in (*PLAIN, LLM_D)),
                f"{best} {means[best, load]:.1%}",
                "",
            )
        )
    report.bars.append(
        Bar("W7: deadlines met at load 1.2, worst seed", min(run["all"] for run in shares[OURS, 1.2]), 0.95, "", False)
    )
    hard = DUE_LOADS[-1]
    worst = min(run["all"] for run in shares[OURS, hard])
    report.bars.append(Bar(f"W7: deadlines met at load {hard}, worst seed", worst, 0.95, "", False))
    best_there = max(means[name, hard] for name in BASELINES)
    report.bars.append(Bar(f"W7: the best baseline there (load {hard})", best_there, 0.70, ""))
    if seeds == SEEDS:
        plot_due(means, names, DUE_LOADS)


def _due(job: tuple[str, float, int]) -> dict[str, float]:
    name, load, seed = job
    return measure_due(STRATEGIES[name], load, seed)


def cost_bars(report: Report) -> None:
    rounds = [measure_cost("aios") for _ in range(3)]
    median, p99, size = min(rounds)
    report.figures["cost"] = {"queued": QUEUED, "median_us": median, "p99_us": p99, "bytes_per_call": size}
    report.bars.append(Bar(f"a decision with {QUEUED} calls queued, median", median, 50.0, "µs"))
    report.bars.append(Bar("memory of a queued call", size, 2000.0, "bytes"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workloads", default=",".join((*GRID, *OTHERS)), help="comma separated")
    arguments = read_options(parser)
    chosen = tuple(arguments.workloads.split(","))
    if unknown := set(chosen) - {*GRID, *OTHERS}:
        parser.error(f"there is no workload {', '.join(sorted(unknown))}")
    grid = tuple(name for name in GRID if name in chosen)
    begun = time.monotonic()
    columns = (
        "cell",
        "aios mean",
        "aios p95",
        *(f"{name} /" for name in (*PLAIN, LLM_D)),
        "best baseline /",
        "/ oracle",
    )
    report = Report("scheduling", "Program completion: baselines over aios, aios over the oracle", columns)
    report.figures["hardware"] = "2 x H100, 8B BF16, emulated"
    report.figures["seeds"] = arguments.seeds
    if grid:
        cells = [
            Cell(workload, load, strategy, seed)
            for workload in grid
            for load in LOADS
            for strategy in STRATEGIES
            for seed in range(arguments.seeds)
        ]
        found = summarise(measure_all(cells))
        grid_bars(report, found, grid)
        report.figures["grid"] = as_json(found)
        for workload in grid if arguments.recorded else ():
            plot_completion(found, workload, WORKLOADS[workload].title, LOADS, list(STRATEGIES))
    if "long" in chosen:
        long_bars(report, arguments.seeds)
    if "W6" in chosen:
        fairness_bars(report, arguments.seeds)
    if "W7" in chosen:
        due_bars(report, arguments.seeds)
    if "cost" in chosen:
        cost_bars(report)
    if "real" in chosen:
        measure_real_clock(report)
    report.figures["wall_s"] = round(time.monotonic() - begun)
    return report.finish(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
