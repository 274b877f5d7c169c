"""The plots in `results/`: completion over load for each workload, and deadlines met."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from report import RESULTS

from simulation.grid import Summary
from simulation.strategies import ORACLE, OURS

mpl.use("Agg")
from matplotlib import pyplot as plt


def _style(name: str) -> dict[str, Any]:
    if name == OURS:
        return {"color": "black", "linewidth": 2.5, "marker": "o"}
    if name == ORACLE:
        return {"color": "grey", "linewidth": 1.5, "linestyle": ":"}
    return {"linewidth": 1.2, "marker": "."}


def plot_completion(
    found: Mapping[tuple[str, float, str], Summary],
    workload: str,
    title: str,
    loads: Sequence[float],
    names: Sequence[str],
) -> None:
    """`scheduling-<workload>.png`: mean completion with its 95 % interval."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5))
    for name in names:
        rows = [found[workload, load, name] for load in loads]
        axes.errorbar(
            loads, [row.mean_s for row in rows], [row.mean_ci_s for row in rows], label=name, capsize=2, **_style(name)
        )
    axes.set(xlabel="load", ylabel="mean completion of a program (s)", yscale="log", title=f"{workload}: {title}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    _save(figure, f"scheduling-{workload}.png")


def plot_due(means: Mapping[tuple[str, float], float], names: Sequence[str], loads: Sequence[float]) -> None:
    """`scheduling-W7.png`: share of deadlines met."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5))
    for name in names:
        axes.plot(loads, [means[name, load] for load in loads], label=name, **_style(name))
    axes.set(xlabel="load", ylabel="share of deadlines met", ylim=(0, 1.03), title="W7: deadlines")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    _save(figure, "scheduling-W7.png")


def _save(figure: Figure, name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(RESULTS / name, dpi=110)
    plt.close(figure)
