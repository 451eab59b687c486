"""Device addresses inside what the IOMMU can map."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwloop.errors import DmaError
from hwloop.hal.iova import LOWEST_IOVA, IovaAllocator

MSI_HOLE = (0xFEE0_0000, 0xFEEF_FFFF)
X86 = [(0, MSI_HOLE[0] - 1), (MSI_HOLE[1] + 1, (1 << 39) - 1)]
PAGE, HUGE = 4096, 2 << 20

_ranges = st.lists(
    st.tuples(st.integers(0, 1 << 34), st.integers(0, 1 << 24)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    max_size=5,
)
_sizes = st.lists(st.tuples(st.integers(1, 64).map(lambda n: n * PAGE), st.sampled_from([PAGE, HUGE])), max_size=20)


@given(_ranges, _sizes, st.data())
def test_addresses_are_aligned_inside_a_range_and_apart(
    ranges: list[tuple[int, int]], sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    allocator = IovaAllocator(ranges)
    out: dict[int, int] = {}
    for size, align in sizes:
        try:
            address = allocator.allocate(size, align)
        except DmaError:
            continue
        assert address % align == 0
        assert address >= LOWEST_IOVA
        assert any(first <= address and address + size - 1 <= last for first, last in ranges)
        # Ranges may overlap one another; what is handed out may not.
        assert all(address + size <= start or start + length <= address for start, length in out.items())
        out[address] = size
        if data.draw(st.booleans()):
            allocator.release(out.popitem()[0])


def test_a_range_is_used_to_its_last_byte() -> None:
    allocator = IovaAllocator([(0x10_0000, 0x10_1FFF)])
    assert [allocator.allocate(PAGE, PAGE) for _ in range(2)] == [0x10_0000, 0x10_1000]
    with pytest.raises(DmaError, match="no 0x1000 bytes of device address space are free in 0x100000-0x101fff"):
        allocator.allocate(PAGE, PAGE)


def test_holes_are_never_crossed() -> None:
    allocator = IovaAllocator(X86)
    size = 32 * HUGE
    for _ in range(80):
        address = allocator.allocate(size, HUGE)
        assert address + size <= MSI_HOLE[0] or address > MSI_HOLE[1]
    assert address > 1 << 32


def test_a_gap_that_was_released_is_used_again() -> None:
    allocator = IovaAllocator(X86)
    first, second, third = (allocator.allocate(HUGE, HUGE) for _ in range(3))
    allocator.release(second)
    assert allocator.allocate(HUGE, HUGE) == second
    assert first < second < third


def test_the_first_megabyte_is_never_handed_out() -> None:
    assert IovaAllocator([(0, 1 << 30)]).allocate(PAGE, PAGE) == LOWEST_IOVA
    with pytest.raises(DmaError):
        IovaAllocator([(0, LOWEST_IOVA - 1)]).allocate(PAGE, PAGE)


def test_the_top_of_the_address_space_does_not_wrap() -> None:
    allocator = IovaAllocator([((1 << 64) - 2 * PAGE, (1 << 64) - 1)])
    assert allocator.allocate(2 * PAGE, PAGE) == (1 << 64) - 2 * PAGE
    with pytest.raises(DmaError):
        allocator.allocate(PAGE, PAGE)


def test_no_range_at_all_says_so() -> None:
    with pytest.raises(DmaError, match="in no range at all"):
        IovaAllocator([]).allocate(PAGE, PAGE)


def test_an_address_is_released_once() -> None:
    allocator = IovaAllocator(X86)
    address = allocator.allocate(PAGE, PAGE)
    allocator.release(address)
    with pytest.raises(DmaError, match="was not handed out"):
        allocator.release(address)
