"""The system calls of iommufd: structures packed and unpacked, nothing decided.

Linux, include/uapi/linux/iommufd.h. Errors are the kernel's OSErrors; `hal.iommufd` explains them. Each call takes the
descriptor of /dev/iommu and goes through `fcntl.ioctl`, which tests replace.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from fcntl import ioctl

_BASE = ord(";") << 8 | 0x80
DESTROY = _BASE + 0
IOAS_ALLOC = _BASE + 1
IOAS_IOVA_RANGES = _BASE + 4
IOAS_MAP = _BASE + 5
IOAS_UNMAP = _BASE + 6

MAP_FIXED_IOVA = 1
MAP_WRITEABLE = 2
MAP_READABLE = 4

_ALLOC = struct.Struct("=3I")
_DESTROY = struct.Struct("=2I")
_RANGES = struct.Struct("=4I2Q")
_MAP = struct.Struct("=4I3Q")
_UNMAP = struct.Struct("=2I2Q")
_RANGE = struct.Struct("=2Q")
_RANGES_AT_FIRST = 16
_RANGES_AT_MOST = 4096


def allocate_space(iommu: int) -> int:
    """The id of a new address space for devices, without mappings."""
    data = bytearray(_ALLOC.pack(_ALLOC.size, 0, 0))
    ioctl(iommu, IOAS_ALLOC, data)
    return int(_ALLOC.unpack(data)[2])


def destroy(iommu: int, object_id: int) -> None:
    """End an object; an address space loses its mappings, and must have no device."""
    ioctl(iommu, DESTROY, _DESTROY.pack(_DESTROY.size, object_id))


def read_iova_ranges(iommu: int, space: int) -> list[tuple[int, int]]:
    """The (first, last) device addresses that can be mapped; right only after the device was attached.

    Asked again when the kernel says that there are more than there was room for.
    """
    count = _RANGES_AT_FIRST
    while True:
        found, ranges = _read_ranges(iommu, space, count)
        if found <= count or count >= _RANGES_AT_MOST:
            return ranges
        count = min(found, _RANGES_AT_MOST)


def _read_ranges(iommu: int, space: int, count: int) -> tuple[int, list[tuple[int, int]]]:
    """How many ranges there are, and those that fit into `count`."""
    room = (ctypes.c_ubyte * (_RANGE.size * count))()
    data = bytearray(_RANGES.pack(_RANGES.size, space, count, 0, ctypes.addressof(room), 0))
    try:
        ioctl(iommu, IOAS_IOVA_RANGES, data)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
    found = int(_RANGES.unpack(data)[2])
    pairs = _RANGE.iter_unpack(bytes(room))
    return found, [(first, last) for (first, last), _ in zip(pairs, range(min(found, count)), strict=False)]


def map_memory(iommu: int, space: int, vaddr: int, iova: int, size: int, flags: int) -> None:
    """Map `size` bytes of ours at exactly `iova`."""
    # A bytearray: the kernel writes the address back.
    ioctl(iommu, IOAS_MAP, bytearray(_MAP.pack(_MAP.size, flags | MAP_FIXED_IOVA, space, 0, vaddr, size, iova)))


def unmap_memory(iommu: int, space: int, iova: int, size: int) -> int:
    """End a mapping, or several whole ones. Returns how many bytes were unmapped."""
    data = bytearray(_UNMAP.pack(_UNMAP.size, space, iova, size))
    ioctl(iommu, IOAS_UNMAP, data)
    return int(_UNMAP.unpack(data)[3])
