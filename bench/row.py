"""A row of the tables in docs/performance.md: what was measured, how much was to be reached, and what was."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """`values` are of one round each; `goal` is what their median is to reach, None where there is none.

    `at_most` says that less is better; `notes` is what goes beside it: rates, shares of the processors.
    """

    measure: str
    values: list[float]
    goal: float | None = None
    at_most: bool = False
    unit: str = ""
    notes: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        if self.goal is None:
            return None
        return self.median <= self.goal if self.at_most else self.median >= self.goal

    @property
    def far_off(self) -> bool:
        """Beyond half the goal: a ratio on a shared machine that is worse than this is no accident."""
        if self.goal is None:
            return False
        return self.median > 2 * self.goal if self.at_most else self.median < self.goal / 2

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


HEADER = ("measure", "goal", "reached", "range", "", "rates, processor shares (driver, device)")


def cells(row: Row) -> tuple[str, ...]:
    goal = "" if row.goal is None else f"{'≤' if row.at_most else '≥'} {number(row.goal)}{row.unit}"
    spread = "" if len(row.values) < 2 else f"{number(min(row.values))} to {number(max(row.values))}"
    verdict = {None: "", True: "yes", False: "**no**"}[row.reached]
    return (row.measure, goal, f"{number(row.median)}{row.unit}", spread, verdict, row.notes)


def number(value: float) -> str:
    """Three digits, and no more zeros than there are."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 20 else f"{value:.3g}"
