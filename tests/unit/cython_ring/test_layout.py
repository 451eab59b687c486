from __future__ import annotations

import pytest

from cython_ring import RingUsageError, split_layout

SIZES = [1 << power for power in range(16)]


def vring_size(num: int, align: int) -> int:
    """include/uapi/linux/virtio_ring.h, with sizeof(struct vring_desc) = 16 and sizeof(vring_used_elem_t) = 8."""
    return ((16 * num + 2 * (3 + num) + align - 1) & ~(align - 1)) + 2 * 3 + 8 * num


@pytest.mark.parametrize("align", [4, 64, 4096, 65536])
@pytest.mark.parametrize("size", SIZES)
def test_the_legacy_layout_has_the_size_that_linux_computes(size: int, align: int) -> None:
    assert split_layout(size, align).total == vring_size(size, align)


@pytest.mark.parametrize("size", SIZES)
def test_the_legacy_layout_puts_avail_after_the_table_and_used_on_the_next_boundary(size: int) -> None:
    layout = split_layout(size, 4096)
    assert (layout.desc_offset, layout.avail_offset) == (0, 16 * size)
    assert layout.used_offset % 4096 == 0
    assert 0 <= layout.used_offset - (layout.avail_offset + layout.avail_bytes) < 4096


def test_the_legacy_layout_of_a_queue_of_256_is_the_known_one() -> None:
    # vring_init() with num 256 and align 4096: avail at 4096, used_event at 4612, used at 8192, avail_event at 10244.
    assert split_layout(256, 4096) == (0, 4096, 4096, 518, 8192, 2054, 10246)


@pytest.mark.parametrize("size", SIZES)
def test_without_an_alignment_driver_and_device_never_write_the_same_cache_lines(size: int) -> None:
    layout = split_layout(size)
    assert layout.avail_offset % 128 == layout.used_offset % 128 == 0
    assert layout.desc_offset + layout.desc_bytes <= layout.avail_offset
    assert layout.avail_offset + layout.avail_bytes <= layout.used_offset
    assert layout.total == layout.used_offset + layout.used_bytes


@pytest.mark.parametrize("size", [0, -1, 3, 255, 32769, 65536, 1 << 40])
def test_a_size_that_is_no_power_of_two_up_to_32768_is_refused(size: int) -> None:
    with pytest.raises(RingUsageError, match="power of two"):
        split_layout(size)


@pytest.mark.parametrize("align", [0, 1, 2, 3, 4095, -4096])
def test_an_alignment_that_used_rings_cannot_have_is_refused(align: int) -> None:
    with pytest.raises(RingUsageError, match="alignment"):
        split_layout(8, align)
