"""UioHal over a fake tree: registers, bus mastering that others turn off, and an interrupt made of a pipe."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import AlreadyUsed, DeviceLost, DmaError, InvalidParam, SetupError, Unsupported
from hwloop.hal.base import BufferDirection
from hwloop.hal.fake import FakeHal
from hwloop.hal.interrupt import Interrupt
from hwloop.hal.uio import UioHal, UioInterrupt
from hwloop.spec import PhysAddr
from hwloop.transport.fake import FakeTransport
from mmio import MappedFile
from pci import BarInfo, Command, ConfigSpace, IoBar, MemoryBar, MemoryBarType, SysfsConfigAccess
from tests.timing import SLACK
from tests.unit.hwloop.hal.paper import FIRST, PaperPagemap, huge_pages_on_paper
from udev.fake import FakeSysfs

DISK = "0000:00:05.0"
BARS: dict[int, BarInfo] = {
    0: IoBar(0, 0xC000, 0x80),
    1: MemoryBar(1, MemoryBarType.Width32, False, 0, 0x1000),
    4: MemoryBar(4, MemoryBarType.Width64, True, 0x38_0000_0000, 0x4000),
}
_COMMAND, _PIN = 4, 0x3D


class Machine:
    """A function bound to uio_pci_generic. `node` is a pipe: what the kernel would count is written into it."""

    def __init__(self, tmp_path: Path) -> None:
        self.tree = FakeSysfs(tmp_path / "machine")
        config = bytearray(256)
        config[_PIN] = 1
        self.folder = self.tree.add_pci(DISK, 0x1AF4, 0x1001, driver="uio_pci_generic", config=bytes(config))
        (self.folder / "resource0").write_bytes(bytes(0x80))
        (self.folder / "resource4").write_bytes(bytes(0x4000))
        self.node = self.tree.dev / "uio0"
        self.node.unlink()
        os.mkfifo(self.node)
        self.set_command(Command.BUS_MASTER | Command.INTERRUPT_DISABLE)

    def hal(self) -> UioHal:
        return UioHal(DISK, BARS, self.tree.sysfs)

    def command(self) -> Command:
        return Command(int.from_bytes((self.folder / "config").read_bytes()[_COMMAND : _COMMAND + 2], "little"))

    def set_command(self, command: Command) -> None:
        self.poke(_COMMAND, int(command).to_bytes(2, "little"))

    def poke(self, offset: int, data: bytes) -> None:
        with open(self.folder / "config", "r+b") as file:
            file.seek(offset)
            file.write(data)

    def count(self, hal: UioHal, total: int) -> None:
        """The kernel has counted to `total`: its handler has masked the line."""
        self.set_command(self.command() | Command.INTERRUPT_DISABLE)
        os.write(hal._fd, total.to_bytes(4, "little"))


@pytest.fixture
def pagemap(monkeypatch: pytest.MonkeyPatch) -> PaperPagemap:
    return huge_pages_on_paper(monkeypatch)


@pytest.fixture
def machine(tmp_path: Path, pagemap: PaperPagemap) -> Iterator[Machine]:
    before = set(os.listdir("/proc/self/fd"))
    yield Machine(tmp_path)
    assert set(os.listdir("/proc/self/fd")) == before, "a descriptor is left"


def line_of(hal: UioHal) -> UioInterrupt:
    line = hal.interrupt()
    assert line is not None
    return line


# --- Registers and memory ---------------------------------------------------------------------------------------------


def test_registers_of_a_memory_bar_are_mapped(machine: Machine) -> None:
    with machine.hal() as hal:
        for hot in (False, True):
            registers = hal.mmio_phys_to_virt(PhysAddr(0x38_0000_1010), 8, hot=hot)
            assert isinstance(registers, MappedFile)
            registers.write32(4, 0xAABBCCDD)
            registers.close()
    assert (machine.folder / "resource4").read_bytes()[0x1014:0x1018] == bytes.fromhex("ddccbbaa")


def test_ports_are_read_and_written_in_one_call_of_their_width(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int, int]] = []
    pread, pwrite = os.pread, os.pwrite

    def spy_read(fd: int, count: int, offset: int) -> bytes:
        calls.append(("read", count, offset))
        return pread(fd, count, offset)

    def spy_write(fd: int, data: bytes, offset: int) -> int:
        calls.append(("write", len(data), offset))
        return pwrite(fd, data, offset)

    with machine.hal() as hal:
        ports = hal.port_region(0xC000, 0x18)
        device = hal.port_region(0xC014, 4)
        monkeypatch.setattr(os, "pread", spy_read)
        monkeypatch.setattr(os, "pwrite", spy_write)
        ports.write16(0x0E, 0x1234)
        assert ports.read16(0x0E) == 0x1234
        assert ports.read8(0x12) == 0
        device.write32(0, 5)
        monkeypatch.undo()
    assert calls == [("write", 2, 0x0E), ("read", 2, 0x0E), ("read", 1, 0x12), ("write", 4, 0x14)]


@pytest.mark.parametrize(("address", "size"), [(0, 4), (0xFFF, 1), (0x38_0000_3FFE, 4), (0xC000, 4)])
def test_registers_outside_every_memory_bar_are_refused(machine: Machine, address: int, size: int) -> None:
    with machine.hal() as hal, pytest.raises(InvalidParam, match=f"in no MemoryBar of {DISK}"):
        hal.mmio_phys_to_virt(PhysAddr(address), size)


@pytest.mark.parametrize(("port", "size"), [(0xBFFF, 1), (0xC07F, 2), (0x38_0000_0000, 4)])
def test_ports_outside_every_io_bar_are_refused(machine: Machine, port: int, size: int) -> None:
    with machine.hal() as hal, pytest.raises(InvalidParam, match=f"in no IoBar of {DISK}"):
        hal.port_region(port, size)


def test_memory_is_at_its_physical_address(machine: Machine) -> None:
    with machine.hal() as hal:
        paddr, vaddr = hal.dma_alloc(1, BufferDirection.Both)
        assert paddr == FIRST
        assert hal.dma_dealloc(paddr, vaddr, 1) == 0


def test_configuration_space_is_the_file_of_that_name(machine: Machine) -> None:
    with machine.hal() as hal:
        hal.config_access().write(0x40, 2, 0x0406)
    assert (machine.folder / "config").read_bytes()[0x40:0x42] == b"\x06\x04"


# --- What is missing --------------------------------------------------------------------------------------------------


def test_a_function_of_another_driver_says_how_to_bind_it(tmp_path: Path, pagemap: PaperPagemap) -> None:
    tree = FakeSysfs(tmp_path / "other")
    tree.add_pci(DISK, 0x1AF4, 0x1001, driver="virtio-pci")
    with pytest.raises(SetupError, match=f"no UIO device; bind it first: hwloop bind {DISK} --driver uio_pci_generic"):
        UioHal(DISK, BARS, tree.sysfs)
    assert pagemap.closed


@pytest.mark.parametrize(("code", "words"), [(errno.EACCES, "run as root"), (errno.ENODEV, "lspci -D")])
def test_a_node_that_cannot_be_opened_is_a_matter_of_set_up(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    opened = os.open

    def refused(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).endswith("uio0"):
            raise OSError(code, os.strerror(code))
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(SetupError, match=words) as caught:
        machine.hal()
    assert caught.value.errno == code


# --- Bus mastering ----------------------------------------------------------------------------------------------------


def test_bus_mastering_that_is_on_is_in_order(machine: Machine) -> None:
    with machine.hal() as hal:
        hal.check()


def test_bus_mastering_that_somebody_turned_off_is_told_with_the_reason(machine: Machine) -> None:
    with machine.hal() as hal:
        machine.set_command(Command.MEMORY_SPACE)
        words = rf"bus mastering of {DISK} was turned off behind our back, .* any process closes .*/uio0"
        with pytest.raises(DeviceLost, match=words):
            hal.check()


@pytest.mark.fault(8, over="uio")
def test_a_function_that_is_gone_is_told(machine: Machine) -> None:
    with machine.hal() as hal:
        machine.poke(_COMMAND, b"\xff\xff")
        with pytest.raises(DeviceLost, match="reads all ones"):
            hal.check()
        (machine.folder / "config").write_bytes(b"")
        with pytest.raises(DeviceLost, match="does not answer"):
            hal.check()


def test_memory_that_moved_is_noticed_by_the_check_too(machine: Machine, pagemap: PaperPagemap) -> None:
    with machine.hal() as hal:
        _, vaddr = hal.dma_alloc(1, BufferDirection.Both)
        pagemap.frames[vaddr] += 1 << 21
        with pytest.raises(DmaError, match="moved"):
            hal.check()


class CheckedHal(FakeHal):
    """A Hal whose bus mastering can go."""

    fault = ""

    def check(self) -> None:
        if self.fault:
            raise DeviceLost(self.fault)


def test_a_disk_that_waits_asks_its_hal_and_fails_in_its_words() -> None:
    hal = CheckedHal()
    device = FakeBlk(hal, 1 << 20)
    device.faults.drop = True
    disk = VirtioBlk(FakeTransport(device), hal, request_seconds=60)
    token = disk.submit_read(0, 512)
    hal.fault = "bus mastering was turned off"
    began = time.monotonic()
    with pytest.raises(DeviceLost, match="bus mastering was turned off; open it again"):
        disk.wait(token)
    assert time.monotonic() - began < SLACK, "long before the request's own deadline"
    disk.close()


# --- The interrupt ----------------------------------------------------------------------------------------------------


def test_the_line_is_turned_on_and_off(machine: Machine) -> None:
    with machine.hal() as hal:
        with line_of(hal) as line:
            assert not machine.command() & Command.INTERRUPT_DISABLE
            assert (line.kind, line.needs_ack) == ("intx", True)
        assert machine.command() & Command.INTERRUPT_DISABLE
        assert machine.command() & Command.BUS_MASTER, "nothing else changed"


def test_an_interrupt_ends_a_wait_and_the_line_stays_off_until_it_is_rearmed(machine: Machine) -> None:
    with machine.hal() as hal, line_of(hal) as line:
        threading.Timer(0.02, machine.count, (hal, 1)).start()
        assert line.wait(30)
        assert machine.command() & Command.INTERRUPT_DISABLE
        line.rearm()
        assert not machine.command() & Command.INTERRUPT_DISABLE
        assert not line.wait(0.01)
        assert line.count == 1


def test_an_interrupt_before_the_line_was_taken_is_not_lost(machine: Machine) -> None:
    with machine.hal() as hal:
        machine.count(hal, 7)
        with line_of(hal) as line:
            assert not machine.command() & Command.INTERRUPT_DISABLE, "the line is on all the same"
            assert line.wait(0)
            assert not line.wait(0)


def test_an_interrupt_before_the_wait_is_not_lost(machine: Machine) -> None:
    with machine.hal() as hal, line_of(hal) as line:
        machine.count(hal, 1)
        assert line.wait(0)


def test_interrupts_that_were_counted_together_are_one_wake_and_all_counted(machine: Machine) -> None:
    with machine.hal() as hal, line_of(hal) as line:
        for total in (0xFFFF_FFFE, 3):
            machine.count(hal, total)
            assert line.wait(0)
        assert line.count == 1 + 5, "the kernel's counter wraps at 32 bits"


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL])
def test_a_function_whose_line_the_kernel_does_not_have_says_so(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(fd: int, count: int) -> bytes:
        raise OSError(code, os.strerror(code))

    with machine.hal() as hal:
        monkeypatch.setattr(os, "read", refuse)
        with pytest.raises(SetupError, match=r"no interrupt for .*uio0: .*poll instead") as caught:
            hal.interrupt()
        monkeypatch.undo()
        assert caught.value.errno == errno.EIO


def test_a_driver_that_goes_away_in_a_wait_is_a_lost_device(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, count: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with machine.hal() as hal, line_of(hal) as line:
        machine.count(hal, 1)
        monkeypatch.setattr(os, "read", refuse)
        with pytest.raises(DeviceLost, match="uio0 does not answer any more: Input/output error"):
            line.wait(1)
        monkeypatch.undo()


def test_there_are_no_vectors_and_no_line_without_a_pin(machine: Machine) -> None:
    with machine.hal() as hal:
        assert hal.interrupt(0) is None
        machine.poke(_PIN, b"\0")
        assert hal.interrupt() is None


def test_the_line_has_one_user_at_a_time(machine: Machine) -> None:
    with machine.hal() as hal:
        with line_of(hal), pytest.raises(AlreadyUsed, match="in use already"):
            hal.interrupt()
        line_of(hal).close()


# --- The end ----------------------------------------------------------------------------------------------------------


def test_the_end_is_interrupt_off_then_bus_mastering_then_memory_then_descriptors(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    hal = machine.hal()
    line_of(hal)
    hal.dma_alloc(1, BufferDirection.Both)
    write, free = SysfsConfigAccess.write, hal._free_arena
    node = hal._fd

    def spy_write(access: SysfsConfigAccess, offset: int, width: int, value: int) -> None:
        steps.append(f"command {Command(value)!r}")
        write(access, offset, width, value)

    def spy_free(arena: Any) -> None:
        assert os.path.samestat(os.fstat(node), os.stat(machine.node)), "the node is still open"
        steps.append("memory")
        free(arena)

    monkeypatch.setattr(SysfsConfigAccess, "write", spy_write)
    monkeypatch.setattr(hal, "_free_arena", spy_free)
    hal.close()
    hal.close()
    monkeypatch.undo()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(node)
    off = Command.BUS_MASTER | Command.INTERRUPT_DISABLE
    assert steps == [f"command {off!r}", f"command {Command.INTERRUPT_DISABLE!r}", "memory"]


def test_pages_in_quarantine_stay_but_bus_mastering_goes(machine: Machine) -> None:
    hal = machine.hal()
    _, vaddr = hal.dma_alloc(1, BufferDirection.Both)
    hal.quarantine()
    hal.close()
    assert not machine.command() & Command.BUS_MASTER
    assert ctypes.string_at(vaddr, 4) == bytes(4)
    for arena in hal._arenas[BufferDirection.Both]:
        hal._free_arena(arena)  # no device is behind it


# --- A device that waits on its interrupt -----------------------------------------------------------------------------


class PipeLine(Interrupt):
    """An interrupt that has always come."""

    kind = "intx"

    def __init__(self) -> None:
        self.steps: list[str] = []

    def wait(self, seconds: float) -> bool:
        self.steps.append("wait")
        return True

    def rearm(self) -> None:
        self.steps.append("rearm")

    def close(self) -> None:
        self.steps.append("close")


class LineHal(FakeHal):
    def __init__(self, line: PipeLine | None) -> None:
        super().__init__()
        self.line = line

    def interrupt(self, vector: int | None = None) -> Interrupt | None:
        return self.line


def test_a_device_uses_its_line_for_every_queue_and_lets_go_of_it_when_it_closes() -> None:
    line = PipeLine()
    hal = LineHal(line)
    disk = VirtioBlk(FakeTransport(FakeBlk(hal, 1 << 20)), hal, request_seconds=5)
    disk.enable_interrupts()
    disk.enable_interrupts()
    assert all(queue.waiter.line is line for queue in disk.virtqueues)
    disk.close()
    assert line.steps == ["close"]


def test_a_device_whose_interrupts_are_disabled_polls_again() -> None:
    line = PipeLine()
    hal = LineHal(line)
    disk = VirtioBlk(FakeTransport(FakeBlk(hal, 1 << 20)), hal, request_seconds=5)
    disk.enable_interrupts()
    disk.disable_interrupts()
    disk.disable_interrupts()
    assert line.steps == ["close"]
    assert disk.read(0, 512) == bytes(512)
    assert disk.virtqueues[0].interrupts == 0
    disk.close()


def test_a_hal_without_interrupts_says_so_and_the_device_goes_on_polling() -> None:
    hal = LineHal(None)
    disk = VirtioBlk(FakeTransport(FakeBlk(hal, 1 << 20)), hal, request_seconds=5)
    with pytest.raises(Unsupported, match="the fake HAL brings no interrupt of this device; poll"):
        disk.enable_interrupts()
    assert disk.read(0, 512) == bytes(512)
    disk.close()


def test_a_configuration_space_reads_its_command_from_the_file(machine: Machine) -> None:
    with machine.hal() as hal:
        assert ConfigSpace(hal.config_access()).read_command() == Command.BUS_MASTER | Command.INTERRUPT_DISABLE
