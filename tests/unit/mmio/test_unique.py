"""A window of registers has one owner."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any

import pytest

from mmio import (
    DevMemWindow,
    FakeRegion,
    Region,
    RegionBoundsError,
    RegionClosed,
    RegionInUse,
    UniqueMmioPointer,
    Window,
    mapped_address,
)

BASE = 0x0A00_3E00


def opener(opened: list[tuple[int, int]]) -> Any:
    def open_registers(address: int, size: int) -> Region:
        opened.append((address, size))
        return FakeRegion(size)

    return open_registers


def test_an_owner_reads_and_writes_what_it_owns() -> None:
    region = FakeRegion(0x200)
    with UniqueMmioPointer(region, BASE, 0x200) as pointer:
        pointer.write32(0x70, 1)
        assert pointer.read32(0x70) == 1
        assert (pointer.address, pointer.size) == (BASE, 0x200)
    assert region.peek(0x70, 4) == 1


@pytest.mark.parametrize(("address", "size"), [(BASE, 0x200), (BASE - 4, 8), (BASE + 0x1FC, 4), (BASE - 8, 0x400)])
def test_a_second_owner_of_any_part_is_refused_before_anything_is_opened(address: int, size: int) -> None:
    opened: list[tuple[int, int]] = []
    with (
        UniqueMmioPointer(FakeRegion(0x200), BASE, 0x200),
        pytest.raises(RegionInUse, match="0xa003e00 to 0xa003fff are open; close them first"),
    ):
        UniqueMmioPointer(opener(opened), address, size)
    assert opened == []


@pytest.mark.parametrize("address", [BASE - 0x200, BASE + 0x200])
def test_neighbours_do_not_meet(address: int) -> None:
    opened: list[tuple[int, int]] = []
    with UniqueMmioPointer(FakeRegion(0x200), BASE, 0x200), UniqueMmioPointer(opener(opened), address, 0x200):
        assert opened == [(address, 0x200)]


def test_the_same_numbers_in_another_space_are_other_registers() -> None:
    first, second = object(), object()
    with (
        UniqueMmioPointer(FakeRegion(4), BASE, 4, space=first),
        UniqueMmioPointer(FakeRegion(4), BASE, 4, space=second),
    ):
        pass


def test_closing_closes_the_region_and_frees_the_range() -> None:
    region = FakeRegion(0x200)
    pointer = UniqueMmioPointer(region, BASE, 0x200)
    pointer.close()
    pointer.close()
    assert region.closed
    with pytest.raises(RegionClosed):
        pointer.read32(0)
    UniqueMmioPointer(FakeRegion(0x200), BASE, 0x200).close()


def test_closing_twice_does_not_take_the_range_from_the_next_owner() -> None:
    first = UniqueMmioPointer(FakeRegion(4), BASE, 4)
    first.close()
    with UniqueMmioPointer(FakeRegion(4), BASE, 4):
        first.close()
        with pytest.raises(RegionInUse):
            UniqueMmioPointer(FakeRegion(4), BASE, 4)


def test_an_owner_that_is_forgotten_owns_nothing_any_more() -> None:
    pointer = UniqueMmioPointer(FakeRegion(4), BASE, 4)
    del pointer
    gc.collect()
    UniqueMmioPointer(FakeRegion(4), BASE, 4).close()


def test_registers_that_cannot_be_opened_have_no_owner_afterwards() -> None:
    def fail(address: int, size: int) -> Region:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        UniqueMmioPointer(fail, BASE, 4)
    UniqueMmioPointer(FakeRegion(4), BASE, 4).close()


def test_a_region_that_is_too_small_is_closed_and_not_owned() -> None:
    region = FakeRegion(4)
    with pytest.raises(RegionBoundsError):
        UniqueMmioPointer(region, BASE, 8)
    assert region.closed
    UniqueMmioPointer(FakeRegion(8), BASE, 8).close()


@pytest.mark.parametrize(("address", "size"), [(-4, 4), (0, 0), ((1 << 64) - 2, 4)])
def test_a_range_that_is_no_range_is_refused(address: int, size: int) -> None:
    with pytest.raises(RegionBoundsError):
        UniqueMmioPointer(FakeRegion(4), address, size)


def test_a_borrowed_window_ends_with_its_owner() -> None:
    pointer = UniqueMmioPointer(FakeRegion(0x200), BASE, 0x200)
    doorbell = pointer.window(0x50, 4)
    doorbell.write32(0, 7)
    assert pointer.read32(0x50) == 7
    doorbell.close()
    assert pointer.read32(0x50) == 7, "closing what was borrowed closes nothing else"
    doorbell = pointer.window(0x50, 4)
    pointer.close()
    with pytest.raises(RegionClosed):
        doorbell.write32(0, 7)


def test_registers_that_are_mapped_keep_their_address(tmp_path: Path) -> None:
    path = tmp_path / "mem"
    path.write_bytes(bytes(0x1000))
    pointer = UniqueMmioPointer(lambda address, size: DevMemWindow(address, size, path), 0x200, 0x200)
    assert isinstance(pointer, Window)
    assert mapped_address(pointer.window(0x50, 4), 0, 4) == mapped_address(pointer, 0x50, 4) is not None
    pointer.close()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_the_error_can_be_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(RegionInUse(range(4), range(2, 8))))
    assert (error.wanted, error.held) == (range(4), range(2, 8))
