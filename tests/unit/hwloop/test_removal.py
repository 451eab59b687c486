"""Fault 9: somebody wants a device back that a command has."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwloop.bench.run import Run
from hwloop.bench.workload import Workload
from hwloop.deadline import wait_until
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.device.fake_rng import FakeRng
from hwloop.device.rng import VirtioRng
from hwloop.errors import DeviceLost, exit_code_of
from hwloop.hal.fake import FakeHal
from hwloop.queue_options import QueueOptions
from hwloop.removal import give_back_when_asked
from hwloop.spec import BlkFeature, DeviceStatus
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN

ROOT = Path(__file__).parents[3]
WHY = "the kernel asks for the device back"


class AskedHal(FakeHal):
    """As VFIO's: `ask` is what the kernel writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = os.eventfd(0, os.EFD_CLOEXEC)

    @property
    def request_fd(self) -> int | None:
        return self.ask

    def close(self) -> None:
        super().close()
        if self.ask >= 0:
            os.close(self.ask)
            self.ask = -1


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "hwloop-removal"]


def disk_of(hal: AskedHal, queues: int = 1) -> tuple[VirtioBlk, FakeBlk]:
    device = FakeBlk(hal, features=MODERN | BlkFeature.MQ, queues=queues)
    disk = VirtioBlk(FakeTransport(device), hal, request_seconds=60, options=QueueOptions(queues=queues))
    give_back_when_asked(disk)
    return disk, device


@pytest.mark.fault(9)
def test_requests_in_flight_fail_and_the_device_is_reset_as_soon_as_it_is_asked_for() -> None:
    hal = AskedHal()
    disk, device = disk_of(hal)
    with disk:
        device.hold = True
        token = disk.submit_write(0, bytes(512))
        threading.Timer(0.05, os.eventfd_write, [hal.ask, 1]).start()
        with pytest.raises(DeviceLost, match=WHY) as caught:
            disk.wait(token)
        assert exit_code_of(caught.value) == 5
        assert device.status == 0
        with pytest.raises(DeviceLost, match=WHY):
            disk.read(0, 512)


@pytest.mark.fault(9)
def test_a_queue_that_is_used_by_itself_is_told_too() -> None:
    hal = AskedHal()
    disk, device = disk_of(hal, queues=2)
    with disk:
        buffer = disk.alloc(4096)
        device.hold = True
        disk.queues[1].submit_read(0, buffer, 1)
        threading.Timer(0.05, os.eventfd_write, [hal.ask, 1]).start()
        with pytest.raises(DeviceLost, match="queue 1: the device is out of order"):
            disk.queues[1].reap(1)


@pytest.mark.fault(9)
@pytest.mark.parametrize("answers", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("attempt", range(8))
def test_a_measurement_ends_with_the_reason_wherever_its_loop_is(attempt: int, answers: bool) -> None:
    """Without an interpreter between its requests; the fake refuses a notification after its reset."""
    hal = AskedHal()
    disk, device = disk_of(hal, queues=2)
    with disk:
        run = Run(disk, Workload(block_bytes=512, depth=4, jobs=2))
        device.hold = not answers
        threading.Timer(0.005 + 0.0007 * attempt, os.eventfd_write, [hal.ask, 1]).start()
        with pytest.raises(DeviceLost, match=WHY):
            run.measure(60)
        assert device.status == 0


@pytest.mark.fault(9)
def test_a_job_that_sees_the_reset_of_its_own_disk_blames_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    hal = AskedHal()
    disk, device = disk_of(hal)

    def status() -> DeviceStatus:
        disk.give_up(WHY)
        return DeviceStatus(0)

    with disk:
        device.hold = True
        run = Run(disk, Workload(block_bytes=512))
        monkeypatch.setattr(disk.transport, "get_status", status)
        with pytest.raises(DeviceLost, match=WHY):
            run.measure(60)


@pytest.mark.fault(9)
def test_nobody_notifies_a_device_whose_reset_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, _ = disk_of(AskedHal(), queues=2)
    reset = disk.transport.reset

    def reset_late() -> None:
        before = [queue.notifications for queue in disk.virtqueues]
        reset()
        for queue in disk.queues:
            queue.submit_read(0, buffer, 1)  # the fake would refuse the notification
        assert [queue.notifications for queue in disk.virtqueues] != before

    with disk:
        buffer = disk.alloc(512)
        with monkeypatch.context() as patch:
            patch.setattr(disk.transport, "reset", reset_late)
            disk.give_up(WHY)
        for queue in disk.queues:
            with pytest.raises(DeviceLost, match="the device is out of order"):
                queue.reap(1)
        disk.recover()
        assert disk.read(0, 512) == bytes(512)
        disk.queues[1].read_into(0, disk.alloc(512))


@pytest.mark.fault(9)
def test_another_device_is_given_back_as_well() -> None:
    hal = AskedHal()
    device = FakeRng(hal)
    with VirtioRng(FakeTransport(device), hal) as rng:
        give_back_when_asked(rng)
        assert len(rng.read(8)) == 8
        os.eventfd_write(hal.ask, 1)
        wait_until(lambda: device.status == 0, "the device to be given up", 30)
        with pytest.raises(DeviceLost, match=WHY):
            rng.read(8)


def test_a_device_that_nobody_asks_for_is_closed_and_the_thread_is_gone() -> None:
    disk, _ = disk_of(AskedHal())
    with disk:
        assert disk.read(0, 512) == bytes(512)


BUSY_ELSEWHERE = """
import os, sys, time
from hwloop.cli import main
from hwloop.hal.fake import FakeHal
FakeHal.request_fd = property(lambda self: READY)
READY = os.eventfd(1, os.EFD_CLOEXEC)
main.entry(["write", "fake:1M", "0"])
"""


@pytest.mark.fault(9)
def test_a_command_that_waits_for_something_else_ends_with_the_status_of_a_lost_device() -> None:
    """Nobody writes to its standard input."""
    with subprocess.Popen(
        [sys.executable, "-c", BUSY_ELSEWHERE],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.wait(60) == 5
        assert process.stderr is not None
        assert WHY in process.stderr.read()
