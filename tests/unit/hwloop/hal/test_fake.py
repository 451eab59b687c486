"""The fake Hal catches what a real machine lets through."""

from __future__ import annotations

import ctypes
import gc
import weakref

import pytest

from hwloop.errors import DeviceClosed, DmaError, InvalidParam
from hwloop.hal import HALS
from hwloop.hal.base import BufferDirection, Dma, pages_for
from hwloop.hal.fake import DmaFault, FakeHal
from hwloop.hal.memory import AnonymousMemory
from hwloop.spec import PhysAddr
from mmio import FakeRegion

TO_DEVICE, FROM_DEVICE, BOTH = BufferDirection.DriverToDevice, BufferDirection.DeviceToDriver, BufferDirection.Both


def test_memory_is_zeroed_aligned_and_contiguous_for_the_device() -> None:
    hal = FakeHal()
    paddr, vaddr = hal.dma_alloc(3, BOTH)
    assert paddr % 4096 == vaddr % 4096 == 0
    assert ctypes.string_at(vaddr, 3 * 4096) == bytes(3 * 4096)
    assert hal.translate(paddr, 3 * 4096, True) == vaddr
    assert hal.translate(paddr + 4096, 4096, False) == vaddr + 4096


@pytest.mark.parametrize(
    ("direction", "reads", "writes"), [(TO_DEVICE, True, False), (FROM_DEVICE, False, True), (BOTH, True, True)]
)
def test_the_device_reaches_memory_only_in_its_direction(direction: BufferDirection, reads: bool, writes: bool) -> None:
    hal = FakeHal()
    for paddr in (hal.dma_alloc(1, direction)[0], hal.share(bytearray(100), direction)):
        for allowed, writable, verb in ((reads, False, "read"), (writes, True, "write")):
            if allowed:
                assert hal.translate(paddr, 100, writable)
            else:
                with pytest.raises(DmaFault, match=f"may not {verb} 100 bytes"):
                    hal.translate(paddr, 100, writable)


@pytest.mark.parametrize("by", [-1, 4096, 1 << 20, -(1 << 40)])
def test_an_address_that_is_not_shared_faults(by: int) -> None:
    hal = FakeHal()
    paddr, _ = hal.dma_alloc(1, BOTH)
    with pytest.raises(DmaFault, match="no memory of 1 bytes is shared"):
        hal.translate(paddr + by, 1, False)


def test_a_range_that_begins_in_memory_and_ends_outside_faults() -> None:
    hal = FakeHal()
    paddr, _ = hal.dma_alloc(1, BOTH)
    with pytest.raises(DmaFault):
        hal.translate(paddr + 4095, 2, False)


def test_two_allocations_are_not_one() -> None:
    """They may be neighbours, and still a transfer across them is a bug."""
    hal = FakeHal()
    first, _ = hal.dma_alloc(1, BOTH)
    second, _ = hal.dma_alloc(1, BOTH)
    assert second == first + 4096
    with pytest.raises(DmaFault):
        hal.translate(first, 8192, False)


def test_our_own_address_is_no_device_address() -> None:
    hal = FakeHal()
    _, vaddr = hal.dma_alloc(1, BOTH)
    with pytest.raises(DmaFault):
        hal.translate(vaddr, 1, False)


def test_sharing_copies_so_that_a_forgotten_unshare_shows() -> None:
    hal = FakeHal()
    buffer = bytearray(b"before")
    paddr = hal.share(buffer, BOTH)
    at = hal.translate(paddr, 6, True)
    assert ctypes.string_at(at, 6) == b"before"
    ctypes.memmove(at, b"AFTER!", 6)
    assert buffer == b"before"
    hal.unshare(paddr, buffer, BOTH)
    assert buffer == b"AFTER!"
    with pytest.raises(DmaFault):
        hal.translate(paddr, 6, True)


def test_a_buffer_for_the_device_to_write_does_not_show_it_what_was_there() -> None:
    hal = FakeHal()
    paddr = hal.share(bytearray(b"secret"), FROM_DEVICE)
    assert ctypes.string_at(hal.vaddr_of(paddr), 4096) == bytes(4096)


def test_a_buffer_for_the_device_to_read_is_not_copied_back() -> None:
    hal = FakeHal()
    buffer = b"constant"
    paddr = hal.share(buffer, TO_DEVICE)
    ctypes.memset(hal.vaddr_of(paddr), 0, 8)
    hal.unshare(paddr, buffer, TO_DEVICE)
    assert buffer == b"constant"


def test_what_was_released_is_zero_for_the_next_owner() -> None:
    hal = FakeHal()
    paddr, vaddr = hal.dma_alloc(1, BOTH)
    ctypes.memset(vaddr, 0x77, 4096)
    hal.dma_dealloc(paddr, vaddr, 1)
    assert hal.dma_alloc(1, BOTH) == (paddr, vaddr)
    assert ctypes.string_at(vaddr, 4096) == bytes(4096)


def test_memory_is_given_back_once_and_exactly() -> None:
    hal = FakeHal()
    paddr, vaddr = hal.dma_alloc(2, BOTH)
    for wrong in ((paddr, vaddr, 1), (paddr, vaddr + 4096, 2), (PhysAddr(paddr + 4096), vaddr + 4096, 1)):
        with pytest.raises(DmaError, match="were not allocated like this"):
            hal.dma_dealloc(*wrong)
    assert hal.dma_dealloc(paddr, vaddr, 2) == 0
    with pytest.raises(DmaError):
        hal.dma_dealloc(paddr, vaddr, 2)


def test_a_buffer_is_unshared_once_and_with_its_size() -> None:
    hal = FakeHal()
    buffer = bytearray(5000)
    paddr = hal.share(buffer, BOTH)
    with pytest.raises(DmaError, match="100 bytes is not shared at"):
        hal.unshare(paddr, bytearray(100), BOTH)
    hal.unshare(paddr, buffer, BOTH)
    with pytest.raises(DmaError):
        hal.unshare(paddr, buffer, BOTH)


@pytest.mark.parametrize("pages", [0, -1])
def test_no_pages_cannot_be_allocated(pages: int) -> None:
    with pytest.raises(InvalidParam):
        FakeHal().dma_alloc(pages, BOTH)


def test_an_empty_buffer_cannot_be_shared() -> None:
    with pytest.raises(InvalidParam):
        FakeHal().share(b"", TO_DEVICE)


def test_leaks_are_listed_before_and_after_the_end() -> None:
    hal = FakeHal()
    kept, _ = hal.dma_alloc(2, BOTH)
    Dma(hal, 1, TO_DEVICE).close()
    assert hal.leaks() == [(kept, 8192)]
    hal.close()
    assert hal.leaks() == [(kept, 8192)]
    hal.close()
    assert hal.leaks() == [(kept, 8192)]


def test_a_closed_hal_gives_nothing() -> None:
    hal = FakeHal()
    hal.close()
    with pytest.raises(DeviceClosed, match="the fake HAL is closed"):
        hal.dma_alloc(1, BOTH)


def test_more_memory_than_there_is_says_so() -> None:
    hal = FakeHal()
    with pytest.raises(DmaError, match="device address space"):
        hal.dma_alloc((65 << 20) // 4096, BOTH)
    for _ in range(63):  # One of the 64 ranges was tried above.
        hal.dma_alloc(256, BOTH)
    with pytest.raises(DmaError, match="no range at all"):
        hal.dma_alloc(256, BOTH)


def test_memory_in_quarantine_is_never_used_again_and_outlives_its_hal() -> None:
    hal = FakeHal()
    paddr, vaddr = hal.dma_alloc(1, BOTH)
    ctypes.memset(vaddr, 0x66, 4096)
    hal.quarantine()
    hal.dma_dealloc(paddr, vaddr, 1)
    assert hal.dma_alloc(1, BOTH)[0] != paddr
    owner = hal._arenas[BOTH][0].owner
    assert isinstance(owner, AnonymousMemory)
    alive = weakref.ref(owner)
    hal.close()
    del hal, owner
    gc.collect()
    assert alive() is not None, "a device that never reset may still write it"
    assert ctypes.string_at(vaddr, 4096) == b"\x66" * 4096


def test_registers_are_found_by_their_physical_address() -> None:
    region = FakeRegion(0x100)
    hal = FakeHal({0x8000: region})
    hal.mmio_phys_to_virt(PhysAddr(0x8010), 4).write32(0, 5)
    assert region.peek(0x10, 4) == 5
    for address, size in ((0x7FFF, 1), (0x80FE, 4), (0x9000, 1)):
        with pytest.raises(DmaError, match="there are no registers"):
            hal.mmio_phys_to_virt(PhysAddr(address), size)


def test_an_allocation_is_bytes_until_it_is_closed() -> None:
    hal = FakeHal()
    with Dma(hal, 2, BOTH) as memory:
        memory.view[:3] = b"abc"
        assert memory.size == 8192
        assert ctypes.string_at(hal.translate(memory.paddr, 3, False), 3) == b"abc"
    memory.close()
    assert hal.leaks() == []
    with pytest.raises(ValueError, match="released memoryview"):
        memory.view[0]


def test_pages_are_rounded_up() -> None:
    assert [pages_for(size) for size in (0, 1, 4096, 4097)] == [0, 1, 1, 2]


def test_the_table_of_hals_names_those_of_this_kernel_and_the_fake() -> None:
    assert {"fake", "uio", "vfio"} <= set(HALS)
    assert HALS.get("fake") is FakeHal


@pytest.mark.parametrize("pages", [1 << 40, 1 << 50, 1 << 60, 1 << 70])
def test_more_memory_than_there_can_be_is_an_error_of_memory(pages: int) -> None:
    with FakeHal() as hal:
        with pytest.raises(DmaError, match=r"cannot allocate .* KiB of memory for the device"):
            hal.dma_alloc(pages, BufferDirection.Both)
        assert hal.dma_alloc(1, BufferDirection.Both), "and the others are not hurt"
