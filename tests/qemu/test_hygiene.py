"""As tests/unit/hwloop/test_hygiene.py, for the doors that start QEMU."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import hwloop
from hwloop.device.block import BlockDevice
from tests import hygiene

KINDS = ["qemu:{}", "qemu:{}?machine=microvm", "svirtb:{}", "svirtb:{}?trapped=on"]


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, image: Path) -> str:
    return str(request.param).format(image)


def test_every_descriptor_is_closed_in_programs_that_we_start(target: str) -> None:
    before, known = hygiene.descriptors(), hygiene.inheritable()
    with hwloop.open(target) as disk:
        assert isinstance(disk, BlockDevice)
        disk.write(0, bytes(4096))
        assert hygiene.inheritable() == known
    assert hygiene.descriptors() == before


@pytest.mark.fault(60)
def test_a_process_that_is_killed_leaves_nothing(target: str) -> None:
    with hygiene.process(hygiene.WRITE_FOR_EVER, target) as process:
        process.kill()
        assert process.wait(60) == -signal.SIGKILL


@pytest.mark.fault(60)
def test_a_program_that_ends_with_requests_in_flight_leaves_nothing(target: str) -> None:
    with hygiene.process(hygiene.END_IN_FLIGHT, target) as process:
        assert process.wait(60) == 7
