from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pci import AddressWindow, AddressWindows, AllocationError, PciError, Space


def test_parts_are_taken_from_the_lowest_aligned_address() -> None:
    window = AddressWindow(0x1000, 0x10000)

    assert window.take(0x100, 0x100, "a") == 0x1000
    assert window.take(0x4000, 0x4000, "b") == 0x4000
    assert window.take(0x100, 0x100, "fits the gap") == 0x1100
    assert window.free == 0x10000 - 0x4200


def test_no_room_names_whose_it_is_and_what_is_free() -> None:
    window = AddressWindow(0x1000, 0x3000)

    with pytest.raises(AllocationError) as caught:
        window.take(0x2000, 0x4000, "0000:00:05.0, BAR 4")
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value) == (
        "0000:00:05.0, BAR 4: no aligned 0x2000 bytes are left for it in the window (0x1000-0x3fff); "
        "0x3000 bytes are free there: use a larger window"
    )


@pytest.mark.parametrize(("base", "size"), [(0, 0x1000), (-1, 16), (0x1000, 0), (0x1000, -1), (1 << 63, (1 << 63) + 1)])
def test_a_window_that_is_no_range_of_addresses_is_refused(base: int, size: int) -> None:
    with pytest.raises(PciError, match="not a range"):
        AddressWindow(base, size)


def test_what_was_taken_before_an_error_is_free_again() -> None:
    window = AddressWindow(0x1000, 0x1000)
    window.take(0x100, 1, "kept")

    def take_two() -> None:
        with window.all_or_nothing():
            window.take(0x100, 1, "given back")
            window.take(0x1000, 1, "too large")

    with pytest.raises(AllocationError):
        take_two()
    assert window.free == 0xF00
    assert window.take(0xF00, 1, "all") == 0x1100


@given(st.lists(st.tuples(st.integers(1, 0x5000), st.integers(0, 13)), max_size=30), st.integers(1, 1 << 40))
def test_parts_are_aligned_inside_and_apart(wanted: list[tuple[int, int]], base: int) -> None:
    window = AddressWindow(base, 0x10000)
    taken: list[tuple[int, int]] = []
    for size, shift in wanted:
        try:
            address = window.take(size, 1 << shift, "part")
        except AllocationError:
            continue
        assert address % (1 << shift) == 0
        assert base <= address <= window.end - size
        assert all(address + size <= start or end <= address for start, end in taken)
        taken.append((address, address + size))
    assert window.free == window.size - sum(end - start for start, end in taken)


def test_windows_out_of_reach_of_their_bars_are_refused() -> None:
    high, low = AddressWindow(1 << 32, 0x1000), AddressWindow(0x1000, 0x1000)

    with pytest.raises(PciError, match="memory window: its addresses do not fit 32 bits"):
        AddressWindows(high)
    with pytest.raises(PciError, match="I/O window: its addresses do not fit 32 bits"):
        AddressWindows(low, io=high)
    assert list(AddressWindows(low, prefetchable=high).present) == [Space.MEMORY, Space.PREFETCHABLE]
