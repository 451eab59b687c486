"""The VFIO system calls: structures packed and unpacked, nothing decided.

Linux, include/uapi/linux/vfio.h. Errors are the kernel's OSErrors; `hal.vfio` explains them. Each call takes a file
descriptor and goes through `fcntl.ioctl`, which tests replace.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fcntl import ioctl

_BASE = ord(";") << 8 | 100
GET_API_VERSION = _BASE + 0
CHECK_EXTENSION = _BASE + 1
SET_IOMMU = _BASE + 2
GROUP_GET_STATUS = _BASE + 3
GROUP_SET_CONTAINER = _BASE + 4
GROUP_GET_DEVICE_FD = _BASE + 6
DEVICE_GET_INFO = _BASE + 7
DEVICE_GET_REGION_INFO = _BASE + 8
DEVICE_GET_IRQ_INFO = _BASE + 9
DEVICE_SET_IRQS = _BASE + 10
DEVICE_RESET = _BASE + 11
IOMMU_GET_INFO = _BASE + 12
IOMMU_MAP_DMA = _BASE + 13
IOMMU_UNMAP_DMA = _BASE + 14
# These three share their numbers with calls of another IOMMU's container (SPAPR), which go to another descriptor.
DEVICE_BIND_IOMMUFD = _BASE + 18
DEVICE_ATTACH_IOMMUFD_PT = _BASE + 19
DEVICE_DETACH_IOMMUFD_PT = _BASE + 20

API_VERSION = 0
TYPE1V2_IOMMU = 3
NOIOMMU_IOMMU = 8
GROUP_FLAG_VIABLE = 1
DEVICE_FLAG_RESET = 1
REGION_FLAG_MMAP = 4
MAP_READ = 1
MAP_WRITE = 2
PCI_CONFIG_REGION = 7

# The kinds of interrupts that a PCI function has.
PCI_INTX, PCI_MSI, PCI_MSIX, PCI_ERR, PCI_REQ = range(5)
IRQ_EVENTFD = 1
IRQ_AUTOMASKED = 4
IRQ_NORESIZE = 8
IRQ_SET_DATA_NONE = 1 << 0
IRQ_SET_DATA_EVENTFD = 1 << 2
IRQ_SET_ACTION_MASK = 1 << 3
IRQ_SET_ACTION_UNMASK = 1 << 4
IRQ_SET_ACTION_TRIGGER = 1 << 5
NO_EVENTFD = -1

_INFO_CAPS = 2
_CAP_IOVA_RANGE = 1
_CAP_DMA_AVAIL = 3
_CAPABILITY_HEADER = struct.Struct("=HHI")
_CAPABILITIES_AT_MOST = 32


@dataclass(frozen=True)
class RegionInfo:
    """A region of a device: `offset` and `size` in bytes, `offset` into the device's file descriptor."""

    index: int
    flags: int
    size: int
    offset: int


@dataclass(frozen=True)
class IrqInfo:
    """A kind of interrupt of a device: how many of it there are."""

    index: int
    flags: int
    count: int


@dataclass(frozen=True)
class IommuInfo:
    """What the IOMMU can map: page sizes as a bit mask, (first, last) address ranges, mappings left or None."""

    page_sizes: int
    ranges: list[tuple[int, int]] = field(default_factory=list)
    mappings_available: int | None = None


def api_version(container: int) -> int:
    return ioctl(container, GET_API_VERSION)


def has_extension(container: int, extension: int) -> bool:
    return ioctl(container, CHECK_EXTENSION, extension) > 0


def set_iommu(container: int, kind: int) -> None:
    ioctl(container, SET_IOMMU, kind)


def group_flags(group: int) -> int:
    data = bytearray(struct.pack("=II", 8, 0))
    ioctl(group, GROUP_GET_STATUS, data)
    return int(struct.unpack("=II", data)[1])


def set_container(group: int, container: int) -> None:
    ioctl(group, GROUP_SET_CONTAINER, struct.pack("=i", container))


def device_fd(group: int, name: str) -> int:
    # With an immutable argument fcntl returns the buffer and not the descriptor.
    return int(ioctl(group, GROUP_GET_DEVICE_FD, bytearray(name.encode() + b"\0")))


def device_flags(device: int) -> int:
    data = bytearray(struct.pack("=5I", 20, 0, 0, 0, 0))
    ioctl(device, DEVICE_GET_INFO, data)
    return int(struct.unpack("=5I", data)[1])


def region_info(device: int, index: int) -> RegionInfo:
    layout = struct.Struct("=4I2Q")
    data = bytearray(layout.pack(layout.size, 0, index, 0, 0, 0))
    ioctl(device, DEVICE_GET_REGION_INFO, data)
    _, flags, _, _, size, offset = layout.unpack(data)
    return RegionInfo(index, flags, size, offset)


def irq_info(device: int, index: int) -> IrqInfo:
    data = bytearray(struct.pack("=4I", 16, 0, index, 0))
    ioctl(device, DEVICE_GET_IRQ_INFO, data)
    _, flags, _, count = struct.unpack("=4I", data)
    return IrqInfo(index, flags, count)


def set_irq_eventfds(device: int, index: int, start: int, eventfds: list[int]) -> int:
    """From now on the interrupts from `start` on are told by these eventfds; NO_EVENTFD: by none.

    Returns 0, or how many there could be had instead, where that is fewer and none was set.
    """
    flags = IRQ_SET_DATA_EVENTFD | IRQ_SET_ACTION_TRIGGER
    size = 20 + 4 * len(eventfds)
    head = struct.pack("=5I", size, flags, index, start, len(eventfds))
    # With an immutable argument fcntl returns the buffer and not how many there are.
    return int(ioctl(device, DEVICE_SET_IRQS, bytearray(head + struct.pack(f"={len(eventfds)}i", *eventfds))))


def disable_irqs(device: int, index: int) -> None:
    """Turn all interrupts of this kind off, and MSI or MSI-X with the last one."""
    ioctl(device, DEVICE_SET_IRQS, struct.pack("=5I", 20, IRQ_SET_DATA_NONE | IRQ_SET_ACTION_TRIGGER, index, 0, 0))


def mask_irq(device: int, index: int, *, on: bool) -> None:
    """Mask the first interrupt of this kind, or unmask it."""
    action = IRQ_SET_ACTION_MASK if on else IRQ_SET_ACTION_UNMASK
    ioctl(device, DEVICE_SET_IRQS, struct.pack("=5I", 20, IRQ_SET_DATA_NONE | action, index, 0, 1))


def reset_device(device: int) -> None:
    ioctl(device, DEVICE_RESET)


def iommu_info(container: int) -> IommuInfo:
    """Asked twice: first for the size of the answer, then for all of it."""
    header = struct.Struct("=IIQI4x")
    data = bytearray(header.pack(header.size, 0, 0, 0))
    ioctl(container, IOMMU_GET_INFO, data)
    needed = max(header.size, int(header.unpack_from(data)[0]))
    data = bytearray(header.pack(needed, 0, 0, 0).ljust(needed, b"\0"))
    ioctl(container, IOMMU_GET_INFO, data)
    return parse_iommu_info(bytes(data))


def parse_iommu_info(data: bytes) -> IommuInfo:
    """Decode the answer of IOMMU_GET_INFO. The chain of capabilities is followed for a bounded number of steps."""
    _, flags, page_sizes, offset = struct.unpack_from("=IIQI", data)
    ranges: list[tuple[int, int]] = []
    available = None
    for _ in range(_CAPABILITIES_AT_MOST if flags & _INFO_CAPS else 0):
        if not offset or offset + _CAPABILITY_HEADER.size > len(data):
            break
        kind, _, following = _CAPABILITY_HEADER.unpack_from(data, offset)
        body = offset + _CAPABILITY_HEADER.size
        if kind == _CAP_IOVA_RANGE:
            ranges = _ranges_at(data, body)
        elif kind == _CAP_DMA_AVAIL and body + 4 <= len(data):
            available = struct.unpack_from("=I", data, body)[0]
        offset = following
    return IommuInfo(page_sizes, ranges, available)


def _ranges_at(data: bytes, body: int) -> list[tuple[int, int]]:
    """A count of 32 bits, 4 bytes of padding, and so many pairs as there is room for."""
    if body + 8 > len(data):
        return []
    room = (len(data) - body - 8) // 16
    count = min(int.from_bytes(data[body : body + 4], "little"), room)
    return [struct.unpack_from("=QQ", data, body + 8 + 16 * i) for i in range(count)]


def map_dma(container: int, vaddr: int, iova: int, size: int, flags: int) -> None:
    ioctl(container, IOMMU_MAP_DMA, struct.pack("=IIQQQ", 32, flags, vaddr, iova, size))


def unmap_dma(container: int, iova: int, size: int) -> None:
    ioctl(container, IOMMU_UNMAP_DMA, bytearray(struct.pack("=IIQQ", 24, 0, iova, size)))


def bind_iommufd(device: int, iommu: int) -> int:
    """Put the device under an iommufd; only then does its descriptor answer. Returns the device's id there."""
    data = bytearray(struct.pack("=IIiI", 16, 0, iommu, 0))
    ioctl(device, DEVICE_BIND_IOMMUFD, data)
    return int(struct.unpack("=IIiI", data)[3])


def attach_space(device: int, space: int) -> None:
    """Let the device see an address space of its iommufd."""
    # A bytearray: the kernel writes the id of the page table back.
    ioctl(device, DEVICE_ATTACH_IOMMUFD_PT, bytearray(struct.pack("=3I", 12, 0, space)))


def detach_space(device: int) -> None:
    """The opposite of `attach_space`: the device reaches no memory any more."""
    ioctl(device, DEVICE_DETACH_IOMMUFD_PT, struct.pack("=2I", 8, 0))
