"""One part of a benchmark that several parts make up: rows for the table, figures for the file, bars to be met."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from report import Bar


@dataclass
class Part:
    """What one part found."""

    name: str
    rows: list[Sequence[str]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def add(self, what: str, value: float, unit: str, limit: float | None = None, *, at_most: bool = True) -> None:
        """One figure, with its bar if it has one."""
        bar = "" if limit is None else f"{'≤' if at_most else '≥'} {limit:g}"
        self.rows.append([self.name, what, f"{value:.3g} {unit}", bar])
        self.figures[what] = value
        if limit is not None:
            self.bars.append(Bar(f"{self.name}: {what}", value, limit, unit, at_most))
