"""Addresses of buffers and of mapped registers, windows, and who keeps memory alive."""

from __future__ import annotations

import ctypes
import gc
import mmap
import threading
import time
import weakref
from typing import Any

import pytest

from mmio import (
    FakeRegion,
    LoggingRegion,
    MappedRegion,
    MisalignedAccess,
    MmioError,
    RegionBoundsError,
    RegionClosed,
    Window,
    address_of,
    mapped_address,
)


class Buffer(bytearray):
    """A bytearray that can be watched."""


@pytest.fixture
def page() -> mmap.mmap:
    return mmap.mmap(-1, 4096)


@pytest.fixture
def region(page: mmap.mmap) -> MappedRegion:
    return MappedRegion(address_of(page), 4096, page)


@pytest.mark.parametrize("make", [lambda: bytearray(b"abcd"), lambda: memoryview(bytearray(b"xabcd"))[1:]])
def test_the_address_is_that_of_the_first_byte(make: Any) -> None:
    buffer = make()
    assert ctypes.string_at(address_of(buffer), 4) == b"abcd"


def test_taking_an_address_holds_nothing() -> None:
    buffer = bytearray(4)
    address_of(buffer)
    buffer.extend(bytes(4096))
    memory = mmap.mmap(-1, 4096)
    address_of(memory)
    memory.close()


def test_a_buffer_that_cannot_be_written_has_no_address() -> None:
    with pytest.raises(BufferError):
        address_of(b"abcd")  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(BufferError):
        address_of(memoryview(bytearray(8))[::2])
    with pytest.raises(TypeError):
        address_of(7)  # type: ignore[arg-type]


def test_a_mapped_region_keeps_its_owner_until_it_is_closed() -> None:
    owner = Buffer(64)
    watch = weakref.ref(owner)
    region = MappedRegion(address_of(owner), 64, owner)
    del owner
    gc.collect()
    assert watch() is not None
    region.close()
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize(("address", "size"), [(0, 8), (-8, 8), (4096, 0), (4096, -1), (1 << 63, 8), (8, 1 << 63)])
def test_memory_that_cannot_be_is_refused(address: int, size: int) -> None:
    with pytest.raises(MmioError):
        MappedRegion(address, size, None)


def test_a_region_that_was_never_made_refuses_instead_of_faulting() -> None:
    region = MappedRegion.__new__(MappedRegion)
    with pytest.raises(RegionClosed):
        region.read32(0)
    with pytest.raises(RegionClosed):
        _ = region.address


def test_the_address_of_a_closed_region_is_refused(region: MappedRegion, page: mmap.mmap) -> None:
    assert region.address == address_of(page)
    region.close()
    with pytest.raises(RegionClosed):
        _ = region.address


def test_a_value_that_closes_the_region_while_it_is_converted_cannot_make_it_fault(region: MappedRegion) -> None:
    class Closing:
        def __index__(self) -> int:
            region.close()
            return 0

    value: Any = Closing()
    with pytest.raises(RegionClosed):
        region.write32(0, value)
    with pytest.raises(RegionClosed):
        region.read32(value)


def test_closing_in_another_thread_ends_accesses_with_an_error_and_never_a_fault(page: mmap.mmap) -> None:
    for _ in range(50):
        region = MappedRegion(address_of(page), 4096, page)
        closer = threading.Thread(target=region.close)
        closer.start()
        with pytest.raises(RegionClosed):
            write_for_ever(region)
        closer.join()


def write_for_ever(region: MappedRegion) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        region.write32(0, 1)


def test_mapped_alignment_is_that_of_the_bus(page: mmap.mmap) -> None:
    region = MappedRegion(address_of(page) + 4, 64, page)
    region.write64(4, 5)
    assert page[8:16] == (5).to_bytes(8, "little")
    with pytest.raises(MisalignedAccess):
        region.write64(0, 5)


def test_a_register_has_an_address_through_windows(region: MappedRegion) -> None:
    window = Window(Window(region, 0x100, 0x100), 0x10, 0x20)
    assert mapped_address(region, 8, 4) == region.address + 8
    assert mapped_address(window, 4, 2) == region.address + 0x114


def test_what_is_not_mapped_has_no_address(region: MappedRegion) -> None:
    assert mapped_address(FakeRegion(16), 0, 4) is None
    assert mapped_address(Window(FakeRegion(16), 4, 8), 0, 4) is None
    assert mapped_address(LoggingRegion(region), 0, 4) is None


def test_an_address_is_refused_where_an_access_would_be(region: MappedRegion) -> None:
    window = Window(region, 0x100, 0x10)
    with pytest.raises(RegionBoundsError):
        mapped_address(window, 0x10, 2)
    with pytest.raises(MisalignedAccess):
        mapped_address(window, 3, 2)
    window.close()
    with pytest.raises(RegionClosed):
        mapped_address(window, 0, 2)
    region.close()
    with pytest.raises(RegionClosed):
        mapped_address(region, 0, 2)


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 0x1001), (0x1000, 1), (-1, 4), (4, -1), (0xFFFFFFFF, 0xFFFFFFFF), ((1 << 64) - 8, 8)]
)
def test_a_window_outside_its_region_is_refused(region: MappedRegion, offset: int, size: int) -> None:
    with pytest.raises(RegionBoundsError, match="window of"):
        Window(region, offset, size)


def test_a_window_may_reach_the_end_and_may_be_empty(region: MappedRegion) -> None:
    assert Window(region, 0xFFC, 4).read32(0) == 0
    with pytest.raises(RegionBoundsError):
        Window(region, 0x1000, 0).read8(0)


def test_closing_a_window_leaves_the_region_open_and_closing_the_region_closes_the_window(region: MappedRegion) -> None:
    first, second = Window(region, 0, 16), Window(region, 0, 16)
    first.close()
    assert second.read32(0) == 0
    region.close()
    with pytest.raises(RegionClosed):
        second.read32(0)


def test_a_window_sees_alignment_as_its_region_does(region: MappedRegion) -> None:
    window = Window(region, 2, 16)
    assert window.read32(2) == 0
    with pytest.raises(MisalignedAccess):
        window.read32(0)
