"""`hwloop doctor` on a device of QEMU's: healthy, and with faults that QEMU itself answers to."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwloop import session
from hwloop.doctor.live import try_device


@pytest.mark.parametrize("options", ["", "wait=irq", "legacy=on", "machine=microvm&wait=irq"])
def test_of_a_healthy_device_nothing_is_a_problem(image: Path, options: str) -> None:
    found = try_device(session.find(f"qemu:{image}?{options}" if options else f"qemu:{image}"))
    assert [finding for finding in found if finding.severity == "problem"] == []


@pytest.mark.parametrize(
    ("fault", "sure", "word"),
    [
        ("lose-bus-master-after=1", "certain", "bus mastering is off"),
        ("lose-notifications=1", "likely", "second notification"),
        ("lose-notifications=2", "possible", "registers show no fault"),
    ],
)
def test_a_fault_is_named(image: Path, fault: str, sure: str, word: str) -> None:
    found = try_device(session.find(f"qemu:{image}?filter=fault:{fault}"), seconds=0.3)
    assert (found[0].sure, word in found[0].saw) == (sure, True)
