"""Registers through the memory device, tried on an ordinary file in its place, and huge pages on paper."""

from __future__ import annotations

import errno
import mmap
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from hwloop.deadline import Deadline
from hwloop.errors import DeadlineExpired, SetupError
from hwloop.hal import HALS, devmem
from hwloop.hal.base import BufferDirection
from hwloop.hal.devmem import DevMemHal, answers
from hwloop.transport.mmio import BadMagic, MmioTransport
from mmio import FakeRegion, MappedFile, RegionBoundsError, RegionClosed, RegionInUse
from tests.unit.hwloop.hal.paper import FIRST, PaperPagemap, huge_pages_on_paper, mapped
from udev.fake import FakeSysfs

SLOT = 0x3E00
NEXT = 0x3C00


@pytest.fixture
def pagemap(monkeypatch: pytest.MonkeyPatch) -> PaperPagemap:
    return huge_pages_on_paper(monkeypatch)


@pytest.fixture
def tree(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path / "tree")


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "mem"
    path.write_bytes(bytes(0x4000))
    return path


@pytest.fixture
def hal(memory: Path, tree: FakeSysfs, pagemap: PaperPagemap) -> DevMemHal:
    return DevMemHal(memory, tree.sysfs)


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_registers_are_those_at_the_address_wherever_in_the_page(hal: DevMemHal, memory: Path) -> None:
    hal.mmio_phys_to_virt(SLOT, 0x200).write32(0x70, 0x0102_0304)
    assert memory.read_bytes()[SLOT + 0x70 :][:4] == bytes([4, 3, 2, 1])
    hal.close()


def test_two_slots_of_one_page_are_two_regions(hal: DevMemHal) -> None:
    one, two = hal.mmio_phys_to_virt(SLOT, 0x200), hal.mmio_phys_to_virt(NEXT, 0x200)
    one.write32(0, 1)
    two.write32(0, 2)
    assert (one.read32(0), two.read32(0)) == (1, 2)
    hal.close()


def test_a_part_of_registers_that_are_mapped_is_borrowed_from_them(hal: DevMemHal) -> None:
    registers = hal.mmio_phys_to_virt(SLOT, 0x200)
    doorbell = hal.mmio_phys_to_virt(SLOT + 0x50, 4, hot=True)
    doorbell.write32(0, 7)
    assert registers.read32(0x50) == 7
    registers.close()
    with pytest.raises(RegionClosed):
        doorbell.write32(0, 7)
    hal.close()


def test_registers_have_one_owner_whichever_hal_asks(hal: DevMemHal, memory: Path, tree: FakeSysfs) -> None:
    hal.mmio_phys_to_virt(SLOT, 0x100)
    with pytest.raises(RegionInUse):
        DevMemHal(memory, tree.sysfs).mmio_phys_to_virt(SLOT, 0x100)
    with pytest.raises(RegionInUse):
        hal.mmio_phys_to_virt(SLOT, 0x200)
    hal.close()
    with DevMemHal(memory, tree.sysfs) as other:
        other.mmio_phys_to_virt(SLOT, 0x200)


def test_closing_unmaps_the_registers_and_frees_the_memory(hal: DevMemHal, memory: Path, pagemap: PaperPagemap) -> None:
    region = hal.mmio_phys_to_virt(SLOT, 0x200)
    assert hal.dma_alloc(1, BufferDirection.Both)[0] == FIRST
    hal.close()
    hal.close()
    with pytest.raises(RegionClosed):
        region.read32(0)
    assert not is_mapped(memory)
    assert pagemap.closed


def test_it_brings_no_interrupt_and_is_in_the_table(hal: DevMemHal) -> None:
    assert hal.interrupt() is None
    assert HALS.get("devmem") is DevMemHal
    hal.close()


def test_memory_of_a_device_that_no_longer_answers_stays_since_nothing_keeps_it_from_memory(
    hal: DevMemHal, pagemap: PaperPagemap
) -> None:
    hal.dma_alloc(1, BufferDirection.Both)
    before = mapped()
    hal.device_lost()
    hal.close()
    assert mapped() == before > 0


@pytest.mark.parametrize(("address", "size"), [(0x1000, 0x200), (0xF00, 0x200), (0x2FFC, 4), (0, 0x10000)])
def test_an_address_with_memory_behind_it_is_refused_before_it_is_mapped(
    tree: FakeSysfs, pagemap: PaperPagemap, tmp_path: Path, address: int, size: int
) -> None:
    tree.add_iomem(0x1000, 0x2000, "System RAM")
    with (
        DevMemHal(tmp_path / "absent", tree.sysfs) as hal,
        pytest.raises(SetupError, match=rf"{address:#x} is in the machine's memory \(0x1000 to 0x2fff\)") as caught,
    ):
        hal.mmio_phys_to_virt(address, size)
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize("address", [0xE00, 0x3000])
def test_an_address_beside_memory_is_not_refused(hal: DevMemHal, tree: FakeSysfs, address: int) -> None:
    tree.add_iomem(0x1000, 0x2000, "System RAM")
    tree.add_iomem(0x3000, 0x1000, "Reserved")
    assert hal.mmio_phys_to_virt(address, 0x200).read32(0) == 0
    hal.close()


def test_a_range_that_a_driver_holds_is_refused_with_the_command_that_frees_it(
    hal: DevMemHal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, "refused")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(SetupError, match=r"IO_STRICT_DEVMEM.*; hwloop unbind mmio:0x3e00$") as caught:
        hal.mmio_phys_to_virt(SLOT, 0x200)
    assert caught.value.errno == errno.EPERM
    monkeypatch.undo()
    hal.close()


def test_a_machine_without_the_memory_device_is_a_setup_error_each_time(
    tree: FakeSysfs, pagemap: PaperPagemap, tmp_path: Path
) -> None:
    with DevMemHal(tmp_path / "absent", tree.sysfs) as hal:
        for _ in range(2):
            with pytest.raises(SetupError, match="CONFIG_DEVMEM") as caught:
                hal.mmio_phys_to_virt(SLOT, 0x200)
            assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(("address", "size"), [(0x4000, 4), (1 << 63, 4), (SLOT, 0x1000)])
def test_registers_outside_the_memory_device_are_a_setup_error(hal: DevMemHal, address: int, size: int) -> None:
    with pytest.raises(SetupError, match=f"has no registers at {address:#x}"):
        hal.mmio_phys_to_virt(address, size)
    hal.close()


@pytest.mark.parametrize(("address", "size"), [(-4, 4), (0, 0), (1 << 70, 4)])
def test_a_range_that_is_none_is_refused(hal: DevMemHal, address: int, size: int) -> None:
    with pytest.raises(RegionBoundsError):
        hal.mmio_phys_to_virt(address, size)
    hal.close()


def test_a_transport_that_finds_no_device_leaves_nothing_mapped(hal: DevMemHal, memory: Path) -> None:
    for _ in range(2):
        with pytest.raises(BadMagic, match="0x3e00: Invalid magic value 0x00000000"):
            MmioTransport(hal, SLOT)
        assert not is_mapped(memory)
    hal.close()


# --- Where nothing answers --------------------------------------------------------------------------------------------


def test_registers_that_answer_are_read_by_a_child_and_stay_as_they_are(memory: Path) -> None:
    with MappedFile(memory, 0, 0x1000) as region:
        assert answers(region)


def test_an_address_whose_reading_is_a_bus_error_does_not_end_this_process(memory: Path) -> None:
    """A mapping behind the end of its file answers like an address that nothing decodes."""
    with MappedFile(memory, 0x2000, 0x1000) as region:
        os.truncate(memory, 0x1000)
        assert not answers(region)


def test_registers_that_are_a_bus_error_are_a_setup_error_and_not_mapped(
    hal: DevMemHal, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(region: Any) -> bool:
        os.truncate(memory, 0)
        return answers(region)

    monkeypatch.setattr(devmem, "answers", cut_short)
    with pytest.raises(SetupError, match="nothing answers at 0x3e00: reading it is a bus error"):
        hal.mmio_phys_to_virt(SLOT, 0x200)
    assert not is_mapped(memory)
    hal.close()


def test_a_read_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devmem, "_ANSWER_SECONDS", 0.05)

    def hang(offset: int, width: int) -> int:
        while not Deadline(60).expired():
            pass
        return 0

    with pytest.raises(DeadlineExpired, match="the first read of a register"):
        answers(FakeRegion(4, on_read=hang))


def test_registers_that_were_given_up_are_not_mapped(
    hal: DevMemHal, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(region: Any) -> bool:
        raise DeadlineExpired("the first read of a register", 5)

    monkeypatch.setattr(devmem, "answers", give_up)
    with pytest.raises(DeadlineExpired) as caught:
        hal.mmio_phys_to_virt(SLOT, 0x200)
    assert caught.value.__traceback__ is not None, "which holds every local of the call"
    assert not is_mapped(memory)
    hal.close()


def test_a_program_that_wants_to_hear_nothing_of_its_children_gets_an_answer(memory: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with MappedFile(memory, 0, 0x1000) as region:
            assert answers(region)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_signal_as_the_child_begins_does_not_let_it_run_the_programs_own_end(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fork

    def interrupted_fork() -> int:
        child = real()
        if not child:
            os.kill(os.getpid(), signal.SIGINT)
        return child

    monkeypatch.setattr(os, "fork", interrupted_fork)
    with MappedFile(memory, 0, 0x1000) as region:
        parent = os.getpid()
        try:
            assert answers(region)
        finally:
            if os.getpid() != parent:
                (tmp_path / "escaped").touch()
                os._exit(1)
    assert not (tmp_path / "escaped").exists()


def test_any_other_failure_is_left_to_our_own_read() -> None:
    region = FakeRegion(4)
    region.close()
    assert answers(region)
