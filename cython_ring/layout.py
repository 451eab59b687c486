"""Where the three areas of a virtqueue lie in one piece of memory, and where its indirect tables are."""

from __future__ import annotations

from typing import NamedTuple

from cython_ring.errors import RingUsageError

MAX_SIZE = 32768
DESC_ALIGN, AVAIL_ALIGN, USED_ALIGN = 16, 2, 4  # VIRTIO 1.4, 2.7
EVENT_ALIGN = 4  # VIRTIO 1.4, 2.8.10.1
DESCRIPTOR_BYTES = 16

# Two 64-byte cache lines: processors that fetch lines in pairs then never share one between driver and device.
_SEPARATION = 128


class SplitLayout(NamedTuple):
    """Offsets and sizes in bytes; `total` ends with the used area and is not rounded up."""

    desc_offset: int
    desc_bytes: int
    avail_offset: int
    avail_bytes: int
    used_offset: int
    used_bytes: int
    total: int


class PackedLayout(NamedTuple):
    """Offsets and sizes in bytes; `total` ends with the device's area and is not rounded up."""

    desc_offset: int
    desc_bytes: int
    driver_offset: int
    driver_bytes: int
    device_offset: int
    device_bytes: int
    total: int


class IndirectTables(NamedTuple):
    """Memory for one indirect table a descriptor of the ring: `size * parts * 16` bytes that the device may read.

    `address` is theirs in this process, `device_address` the device's; both are multiples of 16. Each table has room
    for `parts` parts.
    """

    address: int
    device_address: int
    parts: int


SLOT_BYTES = TAIL_BYTES = 64
"""A slot's head and table, and its tail: a cache line each."""


class SlotMemory(NamedTuple):
    """Where an engine's requests lie: 64 bytes a descriptor of the ring that the device reads, 64 that it writes.

    `address` and `tails_address` are theirs in this process, the others the device's; all are multiples of 64.
    """

    address: int
    device_address: int
    tails_address: int
    tails_device_address: int


def is_power_of_two(value: int) -> bool:
    """Whether `value` is 1, 2, 4, ..."""
    return value > 0 and value & (value - 1) == 0


def check_size(size: int) -> int:
    """`size` if it is a power of two of at most 32768 (VIRTIO 1.4, 2.7), else RingUsageError."""
    if not isinstance(size, int) or not is_power_of_two(size) or size > MAX_SIZE:
        raise RingUsageError(f"queue size {size!r} is not a power of two from 1 to {MAX_SIZE}; choose one that is")
    return size


def check_packed_size(size: int) -> int:
    """`size` if it is from 1 to 32768 (VIRTIO 1.4, 2.8), else RingUsageError."""
    if not isinstance(size, int) or not 0 < size <= MAX_SIZE:
        raise RingUsageError(f"queue size {size!r} is not from 1 to {MAX_SIZE}; choose one that is")
    return size


def check_area(name: str, address: int, align: int) -> int:
    """`address` if it is one, not 0 and a multiple of `align` (VIRTIO 1.4, 2.7.1), else RingUsageError."""
    if not isinstance(address, int) or not 0 < address < 1 << 64 or address % align:
        shown = f"{address:#x}" if isinstance(address, int) else repr(address)
        raise RingUsageError(
            f"{name} at {shown} is not aligned to {align} bytes; place the areas with split_layout() or packed_layout()"
        )
    return address


def check_tables(tables: IndirectTables) -> IndirectTables:
    """`tables` if both addresses are aligned and there is room for at least 2 parts, else RingUsageError."""
    check_area("indirect tables", tables.address, DESC_ALIGN)
    device_address, parts = tables.device_address, tables.parts
    if not 0 <= device_address < 1 << 64 or device_address % DESC_ALIGN:
        raise RingUsageError(
            f"indirect tables at device address {device_address:#x} are not aligned to {DESC_ALIGN} bytes"
        )
    if not 2 <= parts <= MAX_SIZE:
        raise RingUsageError(f"indirect tables have room for {parts} parts; give them 2 to {MAX_SIZE}")
    return tables


def check_slots(slots: SlotMemory, head_bytes: int, tail_bytes: int) -> None:
    """RingUsageError for misaligned slots, or for heads and tails that do not fit them."""
    for name, address in slots._asdict().items():
        if not 0 <= address < 1 << 64 or address % SLOT_BYTES:
            raise RingUsageError(f"slots have {name} {address:#x}, not a multiple of {SLOT_BYTES}; align them")
    if not slots.address or not slots.tails_address:
        raise RingUsageError("slots have no memory; give the addresses of both their parts")
    if not 0 < head_bytes <= 16 or not 0 < tail_bytes <= TAIL_BYTES:
        raise RingUsageError(
            f"a head of {head_bytes} or a tail of {tail_bytes} bytes does not fit; give up to 16 and 64"
        )


def split_layout(size: int, align: int | None = None) -> SplitLayout:
    """The areas of a queue of `size` descriptors; avail and used include their event fields.

    Without `align` each area starts on cache lines of its own (the areas of a modern device may lie anywhere). With it,
    the layout is the contiguous one of legacy devices (VIRTIO 1.4, 2.7.2): used starts at the next multiple of `align`,
    and offsets and total are those of Linux's vring_init() and vring_size(). Raises RingUsageError.
    """
    check_size(size)
    if align is not None and (not is_power_of_two(align) or align < USED_ALIGN):
        raise RingUsageError(f"queue alignment {align!r} is not a power of two from {USED_ALIGN}; legacy PCI uses 4096")
    desc_bytes, avail_bytes, used_bytes = 16 * size, 6 + 2 * size, 6 + 8 * size
    avail_offset = desc_bytes if align else _round_up(desc_bytes, _SEPARATION)
    used_offset = _round_up(avail_offset + avail_bytes, align or _SEPARATION)
    total = used_offset + used_bytes
    return SplitLayout(0, desc_bytes, avail_offset, avail_bytes, used_offset, used_bytes, total)


def packed_layout(size: int) -> PackedLayout:
    """The areas of a packed queue of `size` descriptors, each on cache lines of its own. Raises RingUsageError."""
    check_packed_size(size)
    driver_offset = _round_up(DESCRIPTOR_BYTES * size, _SEPARATION)
    device_offset = driver_offset + _SEPARATION
    return PackedLayout(0, DESCRIPTOR_BYTES * size, driver_offset, 4, device_offset, 4, device_offset + 4)


def _round_up(value: int, align: int) -> int:
    # The specification prints a macro that is right only if its argument is a mask; this is what it means.
    return (value + align - 1) & ~(align - 1)
