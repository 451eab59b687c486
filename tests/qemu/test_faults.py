"""Disks that fail, and a QEMU that stops or dies while its device is driven."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

import hwloop
from hwloop.deadline import wait_until
from hwloop.device.blk import VirtioBlk
from hwloop.door.qemu import QemuPlace
from hwloop.errors import DeadlineExpired, DeviceLost, IoError
from hwloop.hal.base import BounceHal
from hwloop.qtest.machine import MACHINES
from hwloop.qtest.qemu import QemuMachine
from hwloop.queue_options import QueueOptions
from hwloop.target import Target
from tests.qemu.conftest import CONTENT
from tests.timing import SLACK

MIB = 1 << 20


@contextmanager
def failing_disk(image: Path, *rules: str, policy: str = "rerror=report,werror=report") -> Iterator[Failing]:
    """A disk behind blkdebug with `rules` of what fails."""
    injected = "".join(
        f",inject-error.{number}.{part}" for number, rule in enumerate(rules) for part in rule.split(",")
    )
    arguments = [
        "-blockdev", f"driver=blkdebug,node-name=debug,image.driver=file,image.filename={image}{injected}",
        # Directly under the device, blkdebug injects nothing.
        "-blockdev", "driver=raw,node-name=disk0,file=debug",
        "-device", f"virtio-blk-pci,drive=disk0,disable-legacy=on,{policy}",
    ]  # fmt: skip
    with QemuMachine(MACHINES["q35"], arguments) as machine:
        opened = QemuPlace(Target("qemu", str(image))).reach(machine)
        with opened, VirtioBlk(opened.transport, opened.hal, request_seconds=1) as disk:
            yield Failing(machine, disk)


@dataclass(frozen=True)
class Failing:
    machine: QemuMachine
    disk: VirtioBlk


@pytest.fixture
def failing(image: Path) -> Iterator[VirtioBlk]:
    """Reads of sector 7 fail once."""
    with failing_disk(image, "event=read_aio,iotype=read,errno=5,sector=7,once=on") as found:
        yield found.disk


@pytest.mark.fault(15)
def test_a_full_back_end_is_an_io_error_that_says_what_virtio_cannot(image: Path) -> None:
    """There is no status for a full back end, so ENOSPC of its own would be a guess (VIRTIO 1.4, 5.2.6)."""
    with failing_disk(image, "event=write_aio,iotype=write,errno=28,once=on") as found:
        with pytest.raises(IoError, match="OUT at sector 3: the device reports an I/O error") as caught:
            found.disk.write(3, bytes(512))
        assert caught.value.errno == errno.EIO
        found.disk.write(3, bytes(512))
        assert found.machine.qmp.execute("query-status")["running"]


@pytest.mark.fault(16, 1)
def test_a_machine_that_stops_at_a_full_back_end_costs_the_deadline(image: Path) -> None:
    """QEMU's own policy is to stop the machine and to keep the request for later."""
    rule = "event=write_aio,iotype=write,errno=28"
    with failing_disk(image, rule, policy="rerror=auto,werror=auto") as found:
        with pytest.raises(DeadlineExpired, match="a request to complete"):
            found.disk.write(3, bytes(512))
        status = found.machine.qmp.execute("query-status")
        assert (status["running"], status["status"]) == (False, "io-error")


@pytest.mark.fault(55)
def test_a_machine_that_is_stopped_and_goes_on_loses_nothing(image: Path) -> None:
    place = QemuPlace(Target("qemu", str(image)))
    with place.open_machine() as machine:
        opened = place.reach(machine)
        with opened, VirtioBlk(opened.transport, opened.hal, request_seconds=20) as disk:
            machine.qmp.execute("stop")
            # Whether it is done before the machine goes on is QEMU's affair: its disks do not stop with the machine.
            token = disk.submit_write(9, b"s" * 512)
            machine.qmp.execute("cont")
            disk.wait(token)
            assert disk.read(9, 512) == b"s" * 512


def throttle(machine: QemuMachine, requests_a_second: int) -> None:
    limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
    backend = "/machine/peripheral/hwloop0/virtio-backend"
    machine.qmp.execute("block_set_io_throttle", limits, id=backend, iops=requests_a_second)


@pytest.mark.fault(1, 2)
def test_a_disk_that_was_too_slow_is_used_again_after_recover(image: Path) -> None:
    place = QemuPlace(Target("qemu", str(image)))
    with place.open_machine() as machine:
        opened = place.reach(machine)
        with opened, VirtioBlk(opened.transport, opened.hal, request_seconds=20) as disk:
            throttle(machine, 1)
            tokens = [disk.submit_read(8 * at, 512) for at in range(4)]
            with pytest.raises(DeadlineExpired):
                disk.wait(tokens[-1], 0.2)
            throttle(machine, 0)
            for token in tokens[1:-1]:
                with pytest.raises(DeviceLost):
                    disk.wait(token)
            disk.recover()
            disk.write(9, b"r" * 512)
            assert disk.read(9, 512) == b"r" * 512
            assert disk.read(0, 512) == CONTENT


@pytest.mark.fault(2)
def test_qemu_goes_on_with_the_requests_of_a_queue_that_it_confirmed_to_be_reset(image: Path) -> None:
    """Why RING_RESET is not accepted of a device unless the user says so."""
    place = QemuPlace(Target("qemu", str(image)))
    with place.open_machine() as machine:
        opened = place.reach(machine)
        options = QueueOptions({"ring-reset": True})
        with opened, VirtioBlk(opened.transport, opened.hal, request_seconds=20, options=options) as disk:
            throttle(machine, 2)
            for at in range(4):
                disk.submit_read(8 * at, 512)
            last = list(disk._in_flight.values())[-1]
            assert last.paddr is not None
            where = cast(BounceHal, opened.hal).vaddr_of(last.paddr)
            disk.virtqueues[0].stop()
            assert not opened.transport.queue_used(0)
            assert ctypes.string_at(where, 512) == bytes(512)
            wait_until(lambda: ctypes.string_at(where, 512) == CONTENT, "the read to land all the same", 30)


@pytest.mark.fault(14)
def test_a_read_that_fails_is_an_error_of_that_request_only(failing: VirtioBlk) -> None:
    with pytest.raises(IoError) as caught:
        failing.read(7, 512)
    assert caught.value.exit_code == 4
    assert failing.read(7, 512) == CONTENT
    assert failing.read(6, 1024) == CONTENT * 2


def qemu_of(machine: QemuMachine, disk: VirtioBlk) -> int:
    assert disk.read(0, 512) == CONTENT
    return machine.process.pid


@pytest.fixture
def machine(image: Path) -> Iterator[QemuMachine]:
    arguments = QemuPlace(Target("qemu", str(image))).arguments()
    with QemuMachine(MACHINES["q35"], arguments, answer_seconds=0.5) as machine:
        yield machine


def disk_of(machine: QemuMachine, image: Path) -> VirtioBlk:
    opened = QemuPlace(Target("qemu", str(image))).reach(machine)
    return VirtioBlk(opened.transport, opened.hal, request_seconds=60)


@pytest.mark.fault(1, 62)
def test_a_qemu_that_is_stopped_is_given_up_after_a_deadline(machine: QemuMachine, image: Path) -> None:
    disk = disk_of(machine, image)
    os.kill(qemu_of(machine, disk), signal.SIGSTOP)
    before = time.monotonic()
    with pytest.raises((DeviceLost, DeadlineExpired), match="QEMU to answer"):
        disk.read(0, 512)
    with pytest.raises(DeviceLost):
        disk.read(0, 512)
    disk.close()
    machine.close()
    assert time.monotonic() - before < SLACK


@pytest.mark.fault(8)
def test_a_qemu_that_is_killed_is_a_lost_device_and_the_error_says_how(machine: QemuMachine, image: Path) -> None:
    disk = disk_of(machine, image)
    token = disk.submit_read(0, 512)
    assert disk.wait(token) == CONTENT
    os.kill(qemu_of(machine, disk), signal.SIGKILL)
    before = time.monotonic()
    with pytest.raises(DeviceLost, match="QEMU was killed by signal 9"):
        disk.read(0, 512)
    disk.close()
    assert time.monotonic() - before < SLACK


def test_qmp_tells_of_a_qemu_that_is_gone_too(machine: QemuMachine) -> None:
    machine.qmp.execute("query-status")
    os.kill(machine.process.pid, signal.SIGKILL)
    with pytest.raises(DeviceLost, match="QEMU was killed by signal 9"):
        machine.qmp.execute("query-status")


def test_what_qemu_said_before_it_ended_is_in_the_error(machine: QemuMachine) -> None:
    machine.qmp.execute("quit")
    machine.process.explain(5)
    with pytest.raises(DeviceLost, match="QEMU ended with status 0 without a word"):
        machine.qtest.read(0x20_0000, 4)


def test_requests_that_were_in_flight_fail_with_the_device(image: Path) -> None:
    place = QemuPlace(Target("qemu", str(image)))
    with place.open_machine() as machine:
        disk = disk_of(machine, image)
        throttle(machine, 1)
        tokens = [disk.submit_read(8 * i, 512) for i in range(8)]
        os.kill(machine.process.pid, signal.SIGKILL)
        for token in tokens[1:]:
            with pytest.raises(hwloop.DeviceError):
                disk.wait(token, 2)
        disk.close()


def test_a_closed_machine_may_be_closed_again_and_answers_nothing(machine: QemuMachine) -> None:
    machine.close()
    machine.close()
    with pytest.raises(DeviceLost, match="closed"):
        machine.qtest.read(0, 4)
    with pytest.raises(DeviceLost, match="closed"):
        machine.qmp.execute("query-status")
    assert not machine.process.running()


def test_many_threads_share_a_machine(machine: QemuMachine) -> None:
    from concurrent.futures import ThreadPoolExecutor

    base = machine.ram.base + (8 << 20)

    def work(number: int) -> int:
        for i in range(200):
            machine.qtest.write(base + 4 * number, 4, i)
            assert machine.qtest.read(base + 4 * number, 4) == i
        return cast(int, machine.qmp.execute("query-status")["running"])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [True] * 4
