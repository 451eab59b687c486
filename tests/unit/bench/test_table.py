"""Rows, ratios and the page that they are written to."""

from __future__ import annotations

import pytest

from bench import table
from bench.group import GROUPS
from bench.python_ring import PythonRing
from bench.rounds import Contest, Contestant, Sample
from bench.row import Row, cells, number
from cython_ring import Loopback


def test_a_ratio_is_of_one_round() -> None:
    fast = [Sample(3000.0, 1.0, 1.0), Sample(300.0, 1.0, 1.0)]
    slow = [Sample(1000.0, 1.0, 1.0), Sample(100.0, 1.0, 1.0)]
    assert Contest({"ours": fast, "theirs": slow}).ratios("ours", "theirs") == [3.0, 3.0]


@pytest.mark.parametrize(
    ("driver", "device", "polls", "fair"),
    [(1.0, 0.96, True, True), (0.9, 1.0, True, False), (1.0, 0.9, True, False), (1.0, 0.5, False, True)],
)
def test_a_polling_side_without_its_processor_spoils_a_sample(
    driver: float, device: float, polls: bool, fair: bool
) -> None:
    contestant = Contestant("ours", ("true",), device_polls=polls)
    assert Sample(1.0, driver, device).is_fair_for(contestant) is fair


def test_the_median_decides() -> None:
    assert Row("x", [0.9, 1.1, 1.2], 1.0).reached
    assert not Row("x", [0.9, 0.95, 1.2], 1.0).reached
    assert Row("x", [100.0], 126, at_most=True).reached
    assert Row("x", [2.0]).reached is None


def test_only_half_a_goal_is_far_off() -> None:
    assert not Row("x", [0.6], 1.0).far_off
    assert Row("x", [0.4], 1.0).far_off
    assert Row("x", [260.0], 126, at_most=True).far_off


def test_a_row_says_when_its_goal_was_missed() -> None:
    assert cells(Row("speed", [2.0, 3.0, 4.0], 5.0))[:5] == ("speed", "≥ 5", "3", "2 to 4", "**no**")


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (0.1234, 1.25, 25.04, 1234.5, 4.0)] == ["0.123", "1.25", "25.0", "1,234", "4"]


def test_a_table_replaces_the_one_of_its_group_and_nothing_else() -> None:
    page = "before\n<!-- bench: a -->\nold\n<!-- end: a -->\nafter\n<!-- bench: b -->\n<!-- end: b -->\n"
    fresh = table.replace(page, "a", ["new"])
    assert fresh == page.replace("old", "new")
    assert table.replace(fresh, "a", ["new"]) == fresh
    with pytest.raises(ValueError, match="no marks"):
        table.replace(page, "c", [])


def test_every_group_has_its_place_on_the_page() -> None:
    page = table.PAGE.read_text()
    for name in GROUPS:
        table.replace(page, name, [])


def test_the_ring_in_plain_python_works() -> None:
    loop = Loopback(8)
    ring = PythonRing(loop.view("desc"), loop.view("avail"), loop.view("used"), 8)
    for _ in range(20):
        number_of_request = ring.add([(0x1000, 16)], [(0x2000, 4096), (0x3000, 1)])
        ring.publish()
        assert ring.pop() is None
        assert loop.device.serve(1, 0) == 1
        assert ring.pop() == number_of_request
