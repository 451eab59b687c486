"""When two results differ, and when that cannot be told."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from hwloop.bench.compare import (
    BETTER,
    NO_DIFFERENCE,
    OTHER_WORKLOAD,
    TOO_FEW,
    WORSE,
    Spread,
    compare,
    judge,
    load,
)
from hwloop.bench.workload import Workload
from hwloop.errors import InvalidParam

AROUND_100 = [97.0, 98.0, 99.0, 99.5, 99.8, 100.0, 100.2, 100.5, 101.0, 102.0, 103.0]


def scaled(factor: float, samples: list[float] = AROUND_100) -> list[float]:
    return [factor * sample for sample in samples]


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        (AROUND_100, NO_DIFFERENCE),
        (scaled(1.5), BETTER),
        (scaled(1 / 1.5), WORSE),
        (scaled(1.05), BETTER),
        (scaled(1.015), NO_DIFFERENCE),
        (scaled(1.5)[:9], TOO_FEW),
        ([], TOO_FEW),
        # A greater median, and samples so far apart that the middle halves touch.
        ([60.0, 70.0, 80.0, 90.0, 100.0, 120.0, 140.0, 160.0, 180.0, 200.0, 220.0], NO_DIFFERENCE),
    ],
)
def test_a_verdict_needs_a_difference_greater_than_the_spread(new: list[float], verdict: str) -> None:
    assert judge(AROUND_100, new, more_is_better=True) == verdict


def test_less_is_better_for_a_latency() -> None:
    assert judge(AROUND_100, scaled(0.5), more_is_better=False) == BETTER
    assert judge(AROUND_100, scaled(2), more_is_better=False) == WORSE


def test_a_tiny_difference_is_none_however_steady_the_samples_are() -> None:
    assert judge([100.0] * 10, [101.9] * 10, more_is_better=True) == NO_DIFFERENCE
    assert judge([100.0] * 10, [102.1] * 10, more_is_better=True) == BETTER


def test_from_nothing_to_something_is_a_difference() -> None:
    assert judge([0.0] * 10, [5.0] * 10, more_is_better=True) == BETTER
    assert judge([0.0] * 10, [0.0] * 10, more_is_better=True) == NO_DIFFERENCE


def test_samples_of_one_distribution_are_rarely_told_apart() -> None:
    """What the docstring promises."""
    source = random.Random(7)
    for count, share in ((10, 0.04), (20, 0.002)):
        pairs = [[[source.gauss(100, 20) for _ in range(count)] for _ in "ab"] for _ in range(4000)]
        verdicts = [judge(old, new, more_is_better=True) for old, new in pairs]
        assert len(verdicts) - verdicts.count(NO_DIFFERENCE) <= share * len(verdicts)


def test_the_spread_is_median_and_quartiles() -> None:
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(2.0, 3.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


# --- Whole results ----------------------------------------------------------------------------------------------------


def result(**workload: Any) -> dict[str, Any]:
    samples = {"seconds": 1.0, "iops": AROUND_100, "p50_us": AROUND_100, "p99_us": AROUND_100}
    shape = Workload(size=1 << 20, **workload).as_json()
    return {"schema": 1, "target": "fake:1M", "workload": shape, "counted_accesses": False, "samples": samples}


def test_each_figure_has_a_verdict_of_its_own() -> None:
    new = copy.deepcopy(result())
    new["samples"] |= {"iops": scaled(2), "p99_us": scaled(2)}
    found = {verdict.figure: verdict for verdict in compare(result(), new).verdicts}
    assert {name: verdict.verdict for name, verdict in found.items()} == {
        "iops": BETTER, "p50_us": NO_DIFFERENCE, "p99_us": WORSE,
    }  # fmt: skip
    assert found["iops"].change == pytest.approx(1.0)
    assert found["iops"].old == Spread.of(AROUND_100)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"rw": "read"}, "rw was randread, and is read"),
        ({"block_bytes": 512}, "block_bytes was 4096, and is 512"),
        ({"depth": 2}, "depth was 1, and is 2"),
        ({"jobs": 2}, "jobs was 1, and is 2"),
        ({"wait": "irq"}, "wait was poll, and is irq"),
        ({"offset": 512}, "offset was 0, and is 512"),
    ],
)
def test_another_workload_has_no_verdict_and_says_why(other: dict[str, Any], words: str) -> None:
    new = result(**other)
    new["samples"]["iops"] = scaled(2)
    comparison = compare(result(), new)
    assert comparison.differences == [words]
    assert {verdict.verdict for verdict in comparison.verdicts} == {OTHER_WORKLOAD}
    assert comparison.verdicts[0].change == pytest.approx(1.0)


def test_counting_makes_it_another_workload_and_a_seed_does_not() -> None:
    assert compare(result(), result() | {"counted_accesses": True}).differences
    assert compare(result(seed=1), result(seed=2)).differences == []


def test_a_run_without_samples_is_compared_all_the_same() -> None:
    new = copy.deepcopy(result())
    new["samples"]["iops"] = []
    verdict = compare(result(), new).verdicts[0]
    assert (verdict.verdict, verdict.old, verdict.new, verdict.change) == (TOO_FEW, None, None, None)


def test_a_comparison_is_json() -> None:
    found = json.loads(json.dumps(compare(result(), result()).as_json()))
    assert set(found) == {"old_target", "differences", "verdicts"}
    assert set(found["verdicts"][0]) == {"figure", "verdict", "old", "new", "change"}


def test_a_result_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(result()))
    assert load(path) == result()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "null", "{}", '{"schema": 1}', '{"schema": 2}', '{"schema": 1, "samples": {"iops": 3}}',
     '{"schema": 1, "samples": {"iops": ["a"]}}'],
)  # fmt: skip
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(InvalidParam, match=r"old\.json"):
        load(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.json")
