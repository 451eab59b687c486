"""Notes what every door did with the contract suite, and what happened at each fault, where the environment says to."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests import doors, faults


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    doors.note(item, report)
    faults.note(item, report)
    return report
