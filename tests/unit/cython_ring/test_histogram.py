"""Latencies in buckets: exact where that is promised, and within a bucket of the truth elsewhere."""

from __future__ import annotations

import random
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cython_ring import RingUsageError
from cython_ring.histogram import Histogram

VALUES = st.lists(st.one_of(st.integers(0, 600), st.integers(0, 2**64 - 1)), min_size=1, max_size=200)
PERCENTS = ["0", "0.0001", "1", "50", "90", "99", "99.9", "99.99", "100"]


def recorded(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def by_sorting(values: list[int], percent: str) -> int:
    rank = max(1, ceil(Fraction(percent) / 100 * len(values)))
    return sorted(values)[rank - 1]


def bucket_of(value: int) -> tuple[int, int]:
    """The least and the greatest value that share a bucket with this one, by the promise of the class."""
    width = 1 << max(0, value.bit_length() - 8)
    return value // width * width, value // width * width + width - 1


@pytest.mark.parametrize("percent", PERCENTS)
def test_percentiles_of_small_values_are_those_of_a_sorted_list(percent: str) -> None:
    values = random.Random(5).choices(range(256), k=10_000)
    assert recorded(values).percentile(float(percent)) == by_sorting(values, percent)


@given(values=VALUES, percent=st.sampled_from(PERCENTS))
def test_any_percentile_is_the_end_of_the_bucket_that_sorting_gives(values: list[int], percent: str) -> None:
    expected = min(bucket_of(by_sorting(values, percent))[1], max(values))
    assert recorded(values).percentile(float(percent)) == expected


@given(values=VALUES)
def test_count_total_least_and_greatest_are_exact(values: list[int]) -> None:
    histogram = recorded(values)
    assert (histogram.count, histogram.minimum, histogram.maximum) == (len(values), min(values), max(values))
    assert histogram.total == sum(values) % 2**64


@given(values=VALUES)
def test_rows_are_in_order_and_hold_every_value_once(values: list[int]) -> None:
    rows = recorded(values).rows()
    assert rows == sorted(rows)
    assert {(low, high): count for low, high, count in rows} == {
        bucket: sum(bucket_of(value) == bucket for value in values) for bucket in map(bucket_of, values)
    }


@pytest.mark.parametrize("value", [0, 255, 256, 257, 511, 512, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
def test_a_bucket_is_at_most_one_part_in_128_of_its_values_wide(value: int) -> None:
    ((low, high, count),) = recorded([value]).rows()
    assert low <= value <= high
    assert (high - low) * 128 <= low
    assert count == 1


@given(first=VALUES, second=VALUES)
def test_merged_histograms_are_one_of_all_values(first: list[int], second: list[int]) -> None:
    merged, together = recorded(first), recorded(first + second)
    merged.merge(recorded(second))
    assert merged.rows() == together.rows()
    assert (merged.count, merged.total, merged.minimum, merged.maximum) == (
        together.count, together.total, together.minimum, together.maximum,
    )  # fmt: skip


def test_the_mean_is_the_total_over_the_count() -> None:
    assert recorded([1, 2, 1_000_000]).mean == pytest.approx(1_000_003 / 3)


@pytest.mark.parametrize("histogram", [Histogram(), recorded([5, 6])])
def test_an_empty_one_has_nothing_but_zeros(histogram: Histogram) -> None:
    histogram.clear()
    assert (histogram.count, histogram.total, histogram.mean) == (0, 0, 0.0)
    assert (histogram.minimum, histogram.maximum, histogram.percentile(50), histogram.rows()) == (0, 0, 0, [])


@pytest.mark.parametrize("value", [-1, 2**64])
def test_what_is_no_64_bit_number_is_not_counted(value: int) -> None:
    histogram = Histogram()
    with pytest.raises(OverflowError):
        histogram.record(value)
    assert histogram.count == 0


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan")])
def test_there_are_percentiles_from_0_to_100(percent: float) -> None:
    with pytest.raises(RingUsageError, match="0 to 100"):
        recorded([1]).percentile(percent)


def test_merging_nothing_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Histogram().merge(None)  # type: ignore[arg-type]
