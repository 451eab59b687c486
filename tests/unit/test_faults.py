"""docs/faults.md is true: every fault is there, and has a test that is named by its number or one of few reasons."""

from __future__ import annotations

from tests import faults
from tests.faults import LAST, MOST_REASONS, Note, Row


def test_every_fault_is_there_once_and_in_order() -> None:
    assert [row.number for row in faults.read_rows()] == list(range(1, LAST + 1))


def test_every_fault_has_a_test_or_a_reason_and_not_both() -> None:
    tests = faults.marked()
    wrong = [row.number for row in faults.read_rows() if (row.number in tests) == bool(row.reason)]
    assert wrong == []


def test_reasons_are_few() -> None:
    assert sum(bool(row.reason) for row in faults.read_rows()) <= MOST_REASONS


def test_no_test_has_the_number_of_no_fault() -> None:
    assert set(faults.marked()) <= set(range(1, LAST + 1))


def test_the_matrix_says_where_tests_passed_and_where_one_failed() -> None:
    rows = [Row(1, "a", "b", ""), Row(2, "c", "d", "")]
    notes = [
        Note(1, "fake", "x", "passed"),
        Note(1, "vfio", "y", "skipped"),
        Note(2, "uio", "z", "passed"),
        Note(2, "uio", "w", "failed"),
    ]
    lines = faults.matrix(notes, rows).splitlines()
    assert lines[0] == "| | fake | qtest | vfio | uio | devmem | vhost-user | svirtb | machine |"
    assert lines[2] == "| 1 | yes |  |  |  |  |  |  |  |"
    assert lines[3] == "| 2 |  |  |  | **failed** |  |  |  |  |"


def test_rows_are_read_with_their_reasons() -> None:
    text = f"| 1 | it hangs | an error | no machine |\n| 2 | it dies | another |\n{faults.BEGIN}| 3 | a | b |\n"
    assert faults.read_rows(text) == [Row(1, "it hangs", "an error", "no machine"), Row(2, "it dies", "another", "")]
