"""Where things lie in this process's memory: buffers, and mapped registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmio._access import MappedRegion, buffer_address
from mmio.errors import RegionClosed
from mmio.region import Region, Window, check_access

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def address_of(buffer: WriteableBuffer) -> int:
    """The address of the first byte of a writable, contiguous buffer (mmap, bytearray, memoryview, array).

    The number keeps nothing alive. It is good only while the buffer exists, is not closed and is not resized: hold a
    `memoryview(buffer)` for as long as the address is in use, which makes `close()` and resizing raise BufferError
    instead of leaving the address dangling. Raises BufferError for a read-only buffer, TypeError for what is no buffer.
    """
    return buffer_address(buffer, True)


def mapped_address(region: Region, offset: int, width: int) -> int | None:
    """The address of the register of `width` bytes at `offset`, through any windows; None when it is not mapped.

    For a doorbell that is written without the GIL: good until the mapped region is closed. None means that the
    register must be written through `region` (a file, a fake, a log). Raises what an access of that width would.
    """
    check_access(offset, width, region.size, alignment=1)
    if isinstance(region, Window):
        if region.closed:
            raise RegionClosed("Window")
        return mapped_address(region.region, region.offset + offset, width)
    if not isinstance(region, MappedRegion):
        return None
    check_access(offset, width, region.size, alignment=width, base=region.address)
    return region.address + offset
