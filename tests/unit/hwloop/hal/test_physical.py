"""Memory with known physical addresses: what is believed, and what is not."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from hwloop.errors import DmaError, SetupError, exit_code_of
from hwloop.hal import physical
from hwloop.hal.base import BufferDirection
from hwloop.hal.memory import HUGE_PAGE
from hwloop.hal.physical import Pagemap, PhysicalHal, PhysicalMemory
from mmio import FakeRegion, Region
from tests.unit.hwloop.hal.paper import FIRST, PaperPagemap, huge_pages_on_paper, mapped

PRESENT = 1 << 63
EVERYTHING_ELSE = 0x7F80_0000_0000_0000
"""The other bits of an entry: soft-dirty, exclusive, file page, swapped, and those that are reserved."""


@pytest.fixture
def pagemap(monkeypatch: pytest.MonkeyPatch) -> PaperPagemap:
    return huge_pages_on_paper(monkeypatch)


class Hal(PhysicalHal):
    """The memory alone."""

    name = "memory"

    def mmio_phys_to_virt(self, paddr: int, size: int, *, hot: bool = False) -> Region:
        return FakeRegion(size)


# --- The kernel's word ------------------------------------------------------------------------------------------------


def pagemap_file(tmp_path: Path, *entries: int) -> Pagemap:
    """The file of a process whose pages from 0x10000 on have these entries."""
    path = tmp_path / "pagemap"
    path.write_bytes(bytes(16 * 8) + b"".join(entry.to_bytes(8, "little") for entry in entries))
    return Pagemap(path)


def test_an_address_is_the_frame_and_the_place_in_the_page(tmp_path: Path) -> None:
    with pagemap_file(tmp_path, PRESENT | 0x1234, PRESENT | EVERYTHING_ELSE & ~PRESENT | 0x5678) as pagemap:
        assert pagemap.physical_address(0x10000) == 0x1234_000
        assert pagemap.physical_address(0x10ABC) == 0x1234_ABC
        assert pagemap.physical_address(0x11000) == 0x5678_000, "the other bits are no part of the frame number"


@pytest.mark.fault(39, over="uio")
def test_a_frame_number_of_zero_is_an_error_and_never_an_address(tmp_path: Path) -> None:
    with (
        pagemap_file(tmp_path, PRESENT) as pagemap,
        pytest.raises(SetupError, match=r"hides physical addresses.*run as root, with CAP_SYS_ADMIN") as caught,
    ):
        pagemap.physical_address(0x10000)
    assert (caught.value.errno, exit_code_of(caught.value)) == (errno.EPERM, 6)


@pytest.mark.parametrize("entry", [0, 0x1234, 1 << 62 | 0x1234])
def test_a_page_that_is_not_present_has_no_address(tmp_path: Path, entry: int) -> None:
    with pagemap_file(tmp_path, entry) as pagemap, pytest.raises(SetupError, match="0x10000 is not in memory"):
        pagemap.physical_address(0x10000)


def test_behind_the_end_of_the_list_there_is_no_address(tmp_path: Path) -> None:
    with pagemap_file(tmp_path) as pagemap, pytest.raises(SetupError, match="no physical address of 0x10000"):
        pagemap.physical_address(0x10000)


def test_a_list_that_cannot_be_opened_is_a_matter_of_set_up(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot open .*/none: No such file.*PROC_PAGE_MONITOR"):
        Pagemap(tmp_path / "none")


def test_the_list_of_this_process_tells_of_present_pages() -> None:
    page = ctypes.create_string_buffer(b"x" * 8192)
    with Pagemap() as pagemap:
        if os.geteuid():
            with pytest.raises(SetupError):
                pagemap.physical_address(ctypes.addressof(page))
        entry = pagemap._read_entry(ctypes.addressof(page) // 4096)
    assert entry & PRESENT


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_memory_is_zeroed_whole_huge_pages_at_addresses_the_kernel_told(pagemap: PaperPagemap) -> None:
    with PhysicalMemory(HUGE_PAGE + 1, pagemap) as memory:
        assert memory.size == 2 * HUGE_PAGE
        assert memory.physical == (FIRST, FIRST + HUGE_PAGE)
        assert memory.contiguous
        assert ctypes.string_at(memory.address, memory.size).count(0) == memory.size


@pytest.mark.fault(59, over="uio")
def test_memory_is_locked_and_no_child_inherits_it(pagemap: PaperPagemap) -> None:
    with PhysicalMemory(HUGE_PAGE, pagemap) as memory:
        (flags,) = [line for line in _smaps_of(memory.address) if line.startswith("VmFlags:")]
        assert {"lo", "dc"} <= set(flags.split()[1:]), flags


def _smaps_of(address: int) -> list[str]:
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{address:x}-"))
    return lines[start : start + 30]


def test_no_file_and_no_descriptor_is_left(pagemap: PaperPagemap) -> None:
    before = set(os.listdir("/proc/self/fd"))
    PhysicalMemory(HUGE_PAGE, pagemap).close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_closing_memory_twice_is_closing_it(pagemap: PaperPagemap) -> None:
    memory = PhysicalMemory(HUGE_PAGE, pagemap)
    memory.close()
    memory.close()


@pytest.mark.parametrize("fault", ["hidden", "missing", "small pages"])
def test_memory_whose_addresses_are_not_known_is_not_kept(pagemap: PaperPagemap, fault: str) -> None:
    if fault == "hidden":
        pagemap.hidden = True
    elif fault == "missing":
        pagemap._read_entry = lambda page: 0  # type: ignore[method-assign]
    else:
        pagemap.physical_of = lambda vaddr: FIRST + 4096  # type: ignore[method-assign]
    before = mapped()
    with pytest.raises(SetupError):
        PhysicalMemory(HUGE_PAGE, pagemap)
    assert mapped() == before


@pytest.mark.fault(52, over="uio")
def test_without_a_free_huge_page_the_command_that_makes_some_is_named(
    pagemap: PaperPagemap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(physical.mmap, "mmap", full)
    with pytest.raises(DmaError, match=r"1 huge page of 2048 KiB .*: not free.*echo 16 > /proc/sys/vm/nr_hugepages"):
        PhysicalMemory(1, pagemap)


def test_a_kernel_without_huge_pages_says_its_reason(pagemap: PaperPagemap, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(physical, "create_huge_file", refuse)
    with pytest.raises(DmaError, match=r"cannot make memory of huge pages: No such device") as caught:
        PhysicalMemory(1, pagemap)
    assert caught.value.errno == errno.ENODEV


@pytest.mark.fault(52, over="uio")
def test_memory_that_may_not_be_locked_names_the_limit(pagemap: PaperPagemap, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def mlock(self, *arguments: object) -> int:
            ctypes.set_errno(errno.ENOMEM)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *arguments, **more: Library())
    with pytest.raises(DmaError, match=r"cannot lock 2048 KiB.*ulimit -l unlimited"):
        PhysicalMemory(1, pagemap)


@pytest.mark.fault(39, over="uio")
def test_a_page_that_moved_is_noticed(pagemap: PaperPagemap) -> None:
    with PhysicalMemory(HUGE_PAGE, pagemap) as memory:
        memory.verify()
        pagemap.frames[memory.address] += HUGE_PAGE
        with pytest.raises(DmaError, match=f"moved from {FIRST:#x} to {FIRST + HUGE_PAGE:#x}"):
            memory.verify()


# --- The Hal ----------------------------------------------------------------------------------------------------------


def test_a_device_address_is_the_physical_address(pagemap: PaperPagemap) -> None:
    with Hal() as hal:
        paddr, vaddr = hal.dma_alloc(2, BufferDirection.DriverToDevice)
        assert paddr - FIRST == vaddr - next(iter(pagemap.frames))
        assert hal.vaddr_of(paddr) == vaddr
        assert hal.dma_dealloc(paddr, vaddr, 2) == 0


def test_all_directions_share_one_huge_page(pagemap: PaperPagemap) -> None:
    with Hal() as hal:
        for direction in BufferDirection:
            hal.dma_alloc(1, direction)
    assert len(pagemap.frames) == 1


def test_a_shared_buffer_is_copied_there_and_back(pagemap: PaperPagemap) -> None:
    with Hal() as hal:
        buffer = bytearray(b"out" * 100)
        paddr = hal.share(buffer, BufferDirection.Both)
        assert ctypes.string_at(hal.vaddr_of(paddr), 300) == buffer
        ctypes.memmove(hal.vaddr_of(paddr), b"in!", 3)
        hal.unshare(paddr, buffer, BufferDirection.Both)
        assert buffer[:6] == b"in!out"


def test_more_than_a_huge_page_is_given_where_pages_are_neighbours(pagemap: PaperPagemap) -> None:
    with Hal() as hal:
        paddr, _ = hal.dma_alloc(HUGE_PAGE // 4096 + 1, BufferDirection.Both)
        assert paddr == FIRST


@pytest.mark.parametrize("step", [2 * HUGE_PAGE, -HUGE_PAGE])
def test_more_than_a_huge_page_of_pages_apart_is_refused(pagemap: PaperPagemap, step: int) -> None:
    pagemap.step = step
    with Hal() as hal:
        with pytest.raises(DmaError, match=r"2052 KiB in one piece for the device need 2 huge pages side by side"):
            hal.dma_alloc(HUGE_PAGE // 4096 + 1, BufferDirection.Both)
        hal.dma_alloc(1, BufferDirection.Both)


@pytest.mark.fault(39, over="uio")
def test_memory_that_moved_is_not_handed_out_and_not_lost(pagemap: PaperPagemap) -> None:
    with Hal() as hal:
        _, vaddr = hal.dma_alloc(1, BufferDirection.Both)
        hal.check()
        pagemap.frames[vaddr] += HUGE_PAGE
        for attempt in (
            lambda: hal.dma_alloc(1, BufferDirection.Both),
            lambda: hal.share(b"data", BufferDirection.DriverToDevice),
            hal.check,
        ):
            with pytest.raises(DmaError, match="moved"):
                attempt()
        pagemap.frames[vaddr] -= HUGE_PAGE
        hal.dma_alloc(HUGE_PAGE // 4096 - 1, BufferDirection.Both)
        assert len(pagemap.frames) == 1, "what was not handed out is free"


def test_closing_gives_pages_and_list_back(pagemap: PaperPagemap) -> None:
    before = mapped()
    hal = Hal()
    hal.dma_alloc(1, BufferDirection.Both)
    assert mapped() == before + 1
    hal.close()
    hal.close()
    assert pagemap.closed
    assert mapped() == before


def test_pages_in_quarantine_stay(pagemap: PaperPagemap) -> None:
    hal = Hal()
    _, vaddr = hal.dma_alloc(1, BufferDirection.Both)
    hal.quarantine()
    hal.close()
    assert f"{vaddr:x}-" in Path("/proc/self/maps").read_text()
