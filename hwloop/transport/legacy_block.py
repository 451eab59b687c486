"""The one block of memory that a queue of the legacy layout is (VIRTIO 1.4, 2.7.2), and how a device is told of it."""

from __future__ import annotations

from cython_ring import split_layout
from hwloop.errors import DmaError, InvalidParam
from hwloop.spec import PAGE_SIZE


def page_frame_number(
    queue: int, size: int, descriptors: int, driver_area: int, device_area: int, page_size: int = PAGE_SIZE
) -> int:
    """The frame number, in pages of `page_size` bytes, of the block whose areas these are.

    The device is told nothing else, so the areas must be where the layout has them: the used ring starts at the next
    multiple of 4096. Raises InvalidParam for another layout, DmaError for a block whose address does not fit 32 bits.
    """
    if size < 1 or size & (size - 1) or size > 32768:
        raise InvalidParam(f"queue {queue} cannot have {size} descriptors", remedy="a power of two up to 32768")
    if descriptors % max(PAGE_SIZE, page_size):
        raise InvalidParam(f"queue {queue} is at {descriptors:#x}, which is not the start of a page of {page_size}")
    layout = split_layout(size, align=PAGE_SIZE)
    if (driver_area, device_area) != (descriptors + layout.avail_offset, descriptors + layout.used_offset):
        raise InvalidParam(f"the areas of queue {queue} do not have the legacy layout", remedy="VIRTIO 1.4, 2.7.2")
    limit = page_size << 32
    if not 0 < descriptors < limit:
        raise DmaError(
            f"queue {queue} is at {descriptors:#x}; a legacy device can be told addresses from {page_size:#x} up to "
            f"{limit:#x}",
            remedy="use the modern interface, or memory with a lower address",
        )
    return descriptors // page_size
