"""svirtb behind registers that QEMU traps: what only shows when device, machine and driver are three processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hwloop
from hwloop.cli.main import run
from hwloop.device.svirtb import SvirtbBlk
from hwloop.device.svirtb_protocol import SVIRTB_BASE, VirtIoMmioHeader, VirtIoStatus
from hwloop.device.svirtb_registers import probe_svirtb
from hwloop.door.svirtb_trapped import TrappedMachine
from hwloop.errors import DeviceError, DeviceLost, RefusedError, SetupError
from hwloop.spec import PhysAddr
from mmio import Region

pytestmark = pytest.mark.qemu

SECONDS = 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 256)
    return path


@pytest.fixture
def machine(image: Path) -> Iterator[TrappedMachine]:
    with TrappedMachine(str(image), 512) as machine:
        yield machine


def registers(machine: TrappedMachine) -> Region:
    return machine.hal().mmio_phys_to_virt(PhysAddr(SVIRTB_BASE), 0x10000)


def disk_on(machine: TrappedMachine, **options: float) -> SvirtbBlk:
    return SvirtbBlk(machine.hal(), registers(machine), 128, **options)  # type: ignore[arg-type]


def until_gone(pid: int) -> bool:
    for _ in range(SECONDS * 100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_the_commands_work_on_it(image: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"t" * 700)
    assert run(["write", f"svirtb:{image}?trapped=on", "1000", "-i", str(source)]) == 0
    capfdbinary.readouterr()
    assert run(["read", f"svirtb:{image}?trapped=on", "999", "702"]) == 0
    assert capfdbinary.readouterr().out == bytes([999 % 256]) + b"t" * 700 + bytes([1700 % 256])
    assert image.read_bytes()[1000:1700] == b"t" * 700


def test_the_registers_are_at_0xcafe0000_and_nothing_is_behind_them(machine: TrappedMachine) -> None:
    region = registers(machine)
    assert probe_svirtb(region)
    assert [region.read32(offset) for offset in range(VirtIoMmioHeader.span, 64, 4)] == [0] * 10
    assert region.read32(0xFFFC) == 0


def test_accesses_that_are_not_of_32_bits_change_nothing(machine: TrappedMachine) -> None:
    """QEMU makes two accesses of 32 bits of one of 64, so that is not tried here."""
    region = registers(machine)
    assert region.read32(0) == VirtIoStatus.MAGIC
    region.write8(0, 0)
    region.write16(0, 0)
    assert region.read32(0) == VirtIoStatus.MAGIC
    region.write32(0, 0)
    assert region.read32(0) == VirtIoStatus.DRIVER_OK


def test_a_broken_rule_is_reset_and_the_device_process_tells_of_it(machine: TrappedMachine) -> None:
    with disk_on(machine) as disk:
        registers(machine).write32(VirtIoMmioHeader.queue_tail.offset, 9)
        with pytest.raises(DeviceLost, match="RESET"):
            disk.read(0, 512)
        disk.recover()
        assert disk.read(0, 512) == bytes(range(256)) * 2
    machine.close()
    assert machine.device.complaints == "svirtb: the driver wrote queue_tail (seed 002, 2: MUST NOT)\n"


def test_memory_that_the_machine_has_not_is_no_ring(machine: TrappedMachine) -> None:
    region = registers(machine)
    assert region.read32(0) == VirtIoStatus.MAGIC
    region.write32(0, 0)
    assert region.read32(0) == 0
    for offset, value in ((4, 8), (8, 0x7FFF), (12, 0)):
        region.write32(offset, value)
    region.write32(0, 1)
    assert region.read32(0) == VirtIoStatus.RESET


@pytest.mark.fault(8)
def test_a_device_process_that_dies_is_a_device_that_is_lost(machine: TrappedMachine) -> None:
    disk = disk_on(machine, step_seconds=0.2)
    os.kill(machine.device.pid, signal.SIGKILL)
    with pytest.raises(DeviceError):
        disk.read(0, 512)
    with pytest.raises(DeviceLost):
        disk.read(0, 512)
    disk.close()


def test_a_qemu_that_dies_is_a_device_that_is_lost(machine: TrappedMachine) -> None:
    disk = disk_on(machine)
    os.kill(machine.machine.process.pid, signal.SIGKILL)
    with pytest.raises(DeviceLost):
        disk.read(0, 512)
    disk.close()


def test_an_image_in_use_and_one_that_is_not_there_are_refused_before_qemu_starts(image: Path) -> None:
    with hwloop.open(f"svirtb:{image}?trapped=on"), pytest.raises(RefusedError, match="in use"):
        hwloop.open(f"svirtb:{image}?trapped=on")
    with pytest.raises(SetupError, match="No such file"):
        hwloop.open(f"svirtb:{image}.gone?trapped=on")


def test_a_device_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"svirtb: cannot open .*nothing\.img: No such file"):
        TrappedMachine(str(tmp_path / "nothing.img"), 512)


def test_nothing_is_left_after_close(image: Path) -> None:
    with TrappedMachine(str(image), 512) as machine:
        pids = [machine.device.pid, machine.machine.process.pid]
    assert [until_gone(pid) for pid in pids] == [True, True]


def test_nothing_outlives_a_driver_that_is_killed(image: Path) -> None:
    script = (
        "import sys, time\n"
        "from hwloop.door.svirtb_trapped import TrappedMachine\n"
        f"machine = TrappedMachine({str(image)!r}, 512)\n"
        "print(machine.device.pid, machine.machine.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pids = [int(pid) for pid in driver.stdout.readline().split()]
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert len(pids) == 2
    assert [until_gone(pid) for pid in pids] == [True, True]
