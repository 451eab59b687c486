"""Descriptors, files and processes: what is open while a disk is, and what is left when a process has ended."""

from __future__ import annotations

import os
import signal
import threading

import pytest

import hwloop
from hwloop import testdev
from hwloop.device.blk import VirtioBlk
from tests import hygiene

HERE = ["fake:1M", "testdev:fake:1M"]


@pytest.mark.parametrize("options", ["", "?wait=irq"])
def test_every_descriptor_is_closed_in_programs_that_we_start(options: str) -> None:
    before, known = hygiene.descriptors(), hygiene.inheritable()
    with hwloop.open(f"fake:1M{options}"):
        assert hygiene.inheritable() == known
    with testdev.start("fake:1M") as device, hwloop.open(f"{device.target}{options}") as disk:
        assert isinstance(disk, VirtioBlk)
        disk.write(0, bytes(4096))
        assert hygiene.inheritable() == known
        assert hygiene.descriptors() > before
    assert hygiene.descriptors() == before


def test_a_descriptor_that_a_program_would_inherit_is_found() -> None:
    end, other = os.pipe()
    os.set_inheritable(end, True)
    known = len(hygiene.inheritable())
    os.set_inheritable(end, False)
    assert len(hygiene.inheritable()) == known - 1
    os.close(end)
    os.close(other)


@pytest.mark.fault(60)
@pytest.mark.parametrize("target", HERE)
def test_a_process_that_is_killed_leaves_nothing(target: str) -> None:
    with hygiene.process(hygiene.WRITE_FOR_EVER, target) as process:
        process.kill()
        assert process.wait(60) == -signal.SIGKILL


@pytest.mark.fault(60)
@pytest.mark.parametrize("target", HERE)
def test_a_program_that_ends_with_requests_in_flight_leaves_nothing(target: str) -> None:
    with hygiene.process(hygiene.END_IN_FLIGHT, target) as process:
        assert process.wait(60) == 7
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_ends_the_process_leaves_nothing(signum: signal.Signals) -> None:
    with hygiene.process(hygiene.WRITE_FOR_EVER, HERE[1]) as process:
        process.send_signal(signum)
        assert process.wait(60) != 0


def test_no_thread_is_left_when_a_disk_is_closed() -> None:
    before = threading.active_count()
    with testdev.start("fake:1M") as device, hwloop.open(f"{device.target}?wait=irq") as disk:
        assert isinstance(disk, VirtioBlk)
        disk.read(0, 512)
    assert threading.active_count() == before
