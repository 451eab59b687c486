"""The memory of a virtqueue: its three areas, its indirect tables, the slots of an engine; and how many descriptors."""

from __future__ import annotations

from dataclasses import dataclass

from cython_ring import IndirectTables, SlotMemory, packed_layout, split_layout
from cython_ring.layout import DESCRIPTOR_BYTES, MAX_SIZE, SLOT_BYTES, TAIL_BYTES
from hwloop.errors import InvalidParam, TransportError
from hwloop.hal.base import BufferDirection, Dma, Hal, pages_for
from hwloop.spec import PAGE_SIZE, Feature, PhysAddr
from hwloop.transport.base import Transport

LARGEST_SIZE = 256
"""The queue size that is used where the device allows more: enough to keep any device here busy."""

Place = tuple[PhysAddr, int]
"""Where something is: the device's address and ours."""


@dataclass(frozen=True)
class Areas:
    """The memory of a queue, and its three areas."""

    memory: tuple[Dma, ...]
    desc: Place
    driver: Place
    device: Place


def make_areas(hal: Hal, transport: Transport, size: int) -> Areas:
    """Zeroed areas for a queue of `size` descriptors, as the negotiated format wants them. Raises DmaError."""
    if transport.requires_legacy_layout():
        return _legacy_areas(hal, size)
    return (_packed_areas if transport.negotiated & Feature.RING_PACKED else _split_areas)(hal, size)


def _split_areas(hal: Hal, size: int) -> Areas:
    """The driver's areas are memory that the device may only read, so an IOMMU keeps it from rewriting descriptors."""
    layout = split_layout(size)
    driver = Dma(hal, pages_for(layout.used_offset), BufferDirection.DriverToDevice)
    device = Dma(hal, pages_for(layout.used_bytes), BufferDirection.DeviceToDriver)
    return Areas((driver, device), _at(driver, layout.desc_offset), _at(driver, layout.avail_offset), _at(device, 0))


def _packed_areas(hal: Hal, size: int) -> Areas:
    """Both sides write the descriptors of a packed ring; what the driver asks for is the device's to read only."""
    desc = Dma(hal, pages_for(packed_layout(size).desc_bytes), BufferDirection.Both)
    driver = Dma(hal, 1, BufferDirection.DriverToDevice)
    device = Dma(hal, 1, BufferDirection.DeviceToDriver)
    return Areas((desc, driver, device), _at(desc, 0), _at(driver, 0), _at(device, 0))


def _legacy_areas(hal: Hal, size: int) -> Areas:
    """One block from a page boundary on, the used ring at the next one (VIRTIO 1.4, 2.7.2)."""
    layout = split_layout(size, align=PAGE_SIZE)
    block = Dma(hal, pages_for(layout.used_offset + layout.used_bytes), BufferDirection.Both)
    return Areas((block,), *(_at(block, at) for at in (layout.desc_offset, layout.avail_offset, layout.used_offset)))


def _at(memory: Dma, offset: int) -> Place:
    return PhysAddr(memory.paddr + offset), memory.vaddr + offset


def make_tables(hal: Hal, size: int, parts: int) -> tuple[Dma, IndirectTables]:
    """A table of `parts` entries for each descriptor, in memory that the device may only read. Raises DmaError."""
    memory = Dma(hal, pages_for(size * parts * DESCRIPTOR_BYTES), BufferDirection.DriverToDevice)
    return memory, IndirectTables(memory.vaddr, memory.paddr, parts)


def make_slots(hal: Hal, size: int) -> tuple[list[Dma], SlotMemory]:
    """What an engine needs: heads and tables that the device may only read, tails that it writes. Raises DmaError."""
    slots = Dma(hal, pages_for(size * SLOT_BYTES), BufferDirection.DriverToDevice)
    tails = Dma(hal, pages_for(size * TAIL_BYTES), BufferDirection.DeviceToDriver)
    return [slots, tails], SlotMemory(slots.vaddr, slots.paddr, tails.vaddr, tails.paddr)


def choose_size(transport: Transport, index: int, wanted: int | None) -> int:
    """How many descriptors queue `index` gets: what is wanted, or the most that the device and `LARGEST_SIZE` allow.

    Raises TransportError when the device has no such queue, or one that cannot be; InvalidParam for a size that the
    queue cannot have.
    """
    largest = _largest(transport, index)
    if transport.fixed_queue_size:
        return _fixed_size(index, largest, wanted)
    any_number = bool(transport.negotiated & Feature.RING_PACKED)
    if wanted is not None:
        if not 0 < wanted <= largest or not (any_number or _is_power_of_two(wanted)):
            kind = "a number from 1" if any_number else "a power of two"
            raise InvalidParam(f"queue {index} cannot have {wanted} descriptors", remedy=f"{kind} up to {largest}")
        return wanted
    size = min(largest, LARGEST_SIZE)
    # A split queue has a power of two of descriptors (VIRTIO 1.4, 4.1.4.3.2).
    return size if any_number else 1 << (size.bit_length() - 1)


def _largest(transport: Transport, index: int) -> int:
    largest = transport.max_queue_size(index)
    if not largest:
        raise TransportError(f"the device has no queue {index}", section="4.1.5.1.3")
    if largest > MAX_SIZE:
        raise TransportError(
            f"queue {index} claims {largest} descriptors; {MAX_SIZE} is the most there can be", section="2.7"
        )
    return largest


def _fixed_size(index: int, largest: int, wanted: int | None) -> int:
    if not _is_power_of_two(largest):
        raise TransportError(f"queue {index} has {largest} descriptors, which is no power of two", section="2.7")
    if wanted not in (None, largest):
        raise InvalidParam(f"queue {index} cannot have {wanted} descriptors; this transport fixes it at {largest}")
    return largest


def _is_power_of_two(size: int) -> bool:
    return not size & (size - 1)
