"""Notes what every door did with the contract suite, and what happened at each fault, where the environment says to.

A shell has what it runs in the background ignore SIGINT, and so would all children of that: tests send it to theirs.
"""

from __future__ import annotations

import signal
from collections.abc import Generator

import pytest

from tests import doors, faults

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    doors.note(item, report)
    faults.note(item, report)
    return report
