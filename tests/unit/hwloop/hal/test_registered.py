"""Memory of a caller's own that a device reaches in place."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

import pytest

from cython_ring import DmaBuffer, RingUsageError, address_of
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import DeviceClosed, DmaError, InvalidParam, Unsupported
from hwloop.hal.base import BufferDirection
from hwloop.hal.fake import DmaFault, FakeHal
from hwloop.hal.filter import HalFilter
from hwloop.hal.registered import CallersMemory
from hwloop.spec import PhysAddr
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN

PAGE = mmap.PAGESIZE


def disk_of() -> tuple[VirtioBlk, FakeBlk, FakeHal]:
    hal = FakeHal()
    device = FakeBlk(hal, features=MODERN)
    return VirtioBlk(FakeTransport(device), hal), device, hal


def is_inherited(address: int) -> bool:
    """Whether a child process would have the page at this address."""
    smaps = Path("/proc/self/smaps").read_text()
    for found in re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags: ([a-z0-9 ]*)$", smaps, re.M | re.S):
        if int(found[1], 16) <= address < int(found[2], 16):
            return "dc" not in found[3].split()
    raise AssertionError(f"nothing is mapped at {address:#x}")


# --- CallersMemory ----------------------------------------------------------------------------------------------------


def test_pages_stay_where_they_are_and_are_kept_from_children_until_they_are_given_back() -> None:
    with mmap.mmap(-1, 2 * PAGE) as pages:
        with CallersMemory(pages) as memory:
            assert (memory.size, memory.read_only) == (2 * PAGE, False)
            assert memory.address == address_of(pages)
            assert not is_inherited(memory.address)
            with pytest.raises(BufferError):
                pages.close()
        assert is_inherited(address_of(pages))
        memory.close()


@pytest.mark.parametrize(("offset", "length"), [(0, 512), (512, PAGE), (0, 0), (0, PAGE + 1)])
def test_what_is_not_whole_pages_is_refused_with_what_would_be(offset: int, length: int) -> None:
    with mmap.mmap(-1, 2 * PAGE) as pages, memoryview(pages) as view, view[offset : offset + length] as piece:
        with pytest.raises(InvalidParam, match=r"are not whole pages of .* give an mmap"):
            CallersMemory(piece)
        assert is_inherited(address_of(pages))


@pytest.mark.parametrize("what", ["text", 7, None, [b"x"]])
def test_what_is_no_memory_is_refused(what: object) -> None:
    with pytest.raises(InvalidParam, match="a device cannot be shown this memory"):
        CallersMemory(what)  # type: ignore[arg-type]


# --- A Hal ------------------------------------------------------------------------------------------------------------


def test_the_device_reaches_exactly_what_is_registered_as_long_as_it_is() -> None:
    with mmap.mmap(-1, PAGE) as pages, FakeHal() as hal:
        at = HalFilter(hal).register(pages)
        assert hal.translate(at, PAGE, True) == address_of(pages)
        for address, length in ((at, PAGE + 1), (at - 1, 2), (at + PAGE, 1)):
            with pytest.raises(DmaFault):
                hal.translate(address, length, False)
        HalFilter(hal).unregister(at)
        with pytest.raises(DmaFault):
            hal.translate(at, 1, False)
        with pytest.raises(DmaError, match="nothing is registered at"):
            hal.unregister(at)


def test_read_only_pages_are_not_for_the_device_to_write() -> None:
    with mmap.mmap(-1, PAGE, prot=mmap.PROT_READ) as pages, FakeHal() as hal:
        at = hal.register(pages)
        assert hal.translate(at, PAGE, False) == address_of(pages)
        with pytest.raises(DmaFault, match="read-only"):
            hal.translate(at, PAGE, True)


def test_what_is_still_registered_at_the_end_is_given_back() -> None:
    with mmap.mmap(-1, PAGE) as pages:
        hal = FakeHal()
        at = hal.register(pages)
        assert hal.leaks() == [(at, PAGE)]
        hal.close()
        assert hal.leaks() == []
        with pytest.raises(DeviceClosed):
            hal.register(pages)


def test_pages_that_a_lost_device_may_write_are_never_given_back() -> None:
    pages = mmap.mmap(-1, PAGE)
    hal = FakeHal()
    at = hal.register(pages)
    hal.quarantine()
    hal.unregister(at)
    hal.close()
    assert hal.leaks() == [(at, PAGE)]
    with pytest.raises(BufferError):
        pages.close()


def test_a_hal_that_cannot_says_so() -> None:
    class Plain(FakeHal):
        def _adopt(self, memory: CallersMemory) -> None:  # type: ignore[override]
            return None

    with mmap.mmap(-1, PAGE) as pages, Plain() as hal:
        with pytest.raises(Unsupported, match=r"the fake HAL cannot .*; use alloc\(\)"):
            hal.register(pages)
        assert is_inherited(address_of(pages))
        assert hal.dma_alloc(1, BufferDirection.Both)
        with pytest.raises(DmaError):
            hal.unregister(PhysAddr(0x1000))


# --- A disk -----------------------------------------------------------------------------------------------------------


def test_a_disk_reads_and_writes_registered_pages_in_place() -> None:
    disk, device, hal = disk_of()
    with mmap.mmap(-1, 2 * PAGE) as pages:
        with disk:
            buffer = disk.register(pages)
            pages[:512] = b"w" * 512
            disk.queues[0].write_from(8, buffer, 0, 512)
            assert device.data[4096:4608] == b"w" * 512
            disk.queues[0].read_into(8, buffer, PAGE, 512)
            assert pages[PAGE : PAGE + 512] == b"w" * 512
        assert buffer.closed
        assert hal.leaks() == []
        assert pages[:512] == b"w" * 512, "it is the caller's, and is not zeroed"


def test_read_only_pages_can_be_written_to_the_disk_and_not_be_read_into() -> None:
    disk, _, _ = disk_of()
    with disk, mmap.mmap(-1, PAGE, prot=mmap.PROT_READ) as pages, disk.register(pages) as buffer:
        disk.queues[0].write_from(0, buffer, 0, 512)
        with pytest.raises(InvalidParam, match="cannot write this buffer"):
            disk.queues[0].read_into(0, buffer, 0, 512)


def test_pages_in_flight_are_not_given_back() -> None:
    disk, device, _ = disk_of()
    device.hold = True
    with mmap.mmap(-1, PAGE) as pages:
        buffer: DmaBuffer = disk.register(pages)
        disk.queues[0].submit_read(0, buffer, 1)
        with pytest.raises(RingUsageError, match="in flight"):
            buffer.close()
        disk.close()
        assert buffer.closed
    with pytest.raises(DeviceClosed):
        disk.register(mmap.mmap(-1, PAGE))


def test_a_registered_buffer_may_be_closed_and_registered_again_many_times() -> None:
    disk, _, hal = disk_of()
    with disk, mmap.mmap(-1, PAGE) as pages:
        before = hal.leaks()
        for _ in range(200):
            with disk.register(pages) as buffer:
                disk.queues[0].read_into(0, buffer)
        assert hal.leaks() == before


def test_a_child_does_not_have_registered_pages() -> None:
    disk, _, _ = disk_of()
    with disk, mmap.mmap(-1, PAGE) as pages, disk.register(pages):
        child = os.fork()
        if not child:
            try:
                present = Path("/proc/self/maps").read_text()
                start = f"{address_of(pages):x}-" in present
            finally:
                os._exit(1 if start else 0)
        assert os.waitpid(child, 0)[1] == 0
