"""Two results against each other: whether they differ by more than each of them varies."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwloop.errors import InvalidParam

BETTER, WORSE = "better", "worse"
NO_DIFFERENCE = "no difference that can be told from the noise"
TOO_FEW = "too few samples to tell"
OTHER_WORKLOAD = "not comparable"

LEAST_SAMPLES = 10
LEAST_CHANGE = 0.02
"""Two runs of the same thing differ by so much without a reason: caches, clocks, where memory happens to be."""

# Name in the samples -> whether more of it is better.
_FIGURES = {"iops": True, "p50_us": False, "p99_us": False}
_SAME = ("rw", "block_bytes", "depth", "jobs", "wait", "offset", "size", "read_percent")


@dataclass(frozen=True)
class Spread:
    """The median of samples, and the quartiles: half of the samples are between `low` and `high`."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Of one sample at least."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        return cls(*statistics.quantiles(samples, n=4, method="inclusive"))


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one figure; `change` is the new median over the old one, less 1. None without samples."""

    figure: str
    verdict: str
    old: Spread | None
    new: Spread | None
    change: float | None


@dataclass(frozen=True)
class Comparison:
    """`differences` are what is not the same of the two workloads: then there is no verdict."""

    old_target: str
    differences: list[str]
    verdicts: list[Verdict]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def load(path: Path) -> dict[str, Any]:
    """A result that was written before. Raises OSError, InvalidParam for a file that is none."""
    try:
        found = json.loads(path.read_bytes())
        if found["schema"] != 1:
            raise InvalidParam(f"{path} has the schema {found['schema']}, and this hwloop knows 1")
        for figure in _FIGURES:
            Spread.of([float(sample) for sample in found["samples"][figure]] or [0.0])
        found["target"], found["counted_accesses"], {key: found["workload"][key] for key in _SAME}
    except (ValueError, TypeError, KeyError):
        remedy = "make one: hwloop bench TARGET --json > OLD.json"
        raise InvalidParam(f"{path} is no result of hwloop bench", remedy=remedy) from None
    assert isinstance(found, dict)
    return found


def compare(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    """Both are results, as `load` and `result.as_json` give them."""
    differences = list(_differences(old, new))
    verdicts = [_verdict(figure, old, new, comparable=not differences) for figure in _FIGURES]
    return Comparison(old["target"], differences, verdicts)


def judge(old: Sequence[float], new: Sequence[float], *, more_is_better: bool) -> str:
    """Better or worse only when the middle halves of the samples do not touch, and the medians differ by 2 %.

    Of samples that follow one distribution that happens in four comparisons of a hundred at 10 samples each, and in
    one of a thousand at 20. What changes from one run to the next is not seen in the samples of a run: repeat both.
    """
    if min(len(old), len(new)) < LEAST_SAMPLES:
        return TOO_FEW
    before, after = Spread.of(old), Spread.of(new)
    if abs(after.median - before.median) < LEAST_CHANGE * before.median:
        return NO_DIFFERENCE
    if before.low <= after.high and after.low <= before.high:
        return NO_DIFFERENCE
    return BETTER if (after.median > before.median) is more_is_better else WORSE


def _verdict(figure: str, old: dict[str, Any], new: dict[str, Any], *, comparable: bool) -> Verdict:
    before, after = old["samples"][figure], new["samples"][figure]
    verdict = judge(before, after, more_is_better=_FIGURES[figure]) if comparable else OTHER_WORKLOAD
    if not before or not after:
        return Verdict(figure, verdict, None, None, None)
    spreads = Spread.of(before), Spread.of(after)
    change = spreads[1].median / spreads[0].median - 1 if spreads[0].median else None
    return Verdict(figure, verdict, *spreads, change)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    pairs = [(key, old["workload"][key], new["workload"][key]) for key in _SAME]
    pairs.append(("counted_accesses", old["counted_accesses"], new["counted_accesses"]))
    return [f"{key} was {before}, and is {after}" for key, before, after in pairs if before != after]
