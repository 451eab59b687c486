"""The protocol of "Simple VirtIO Block" (seed 002): registers, status values, ring entries, and how we read its gaps.

It is no virtio: no features, no configuration space, no descriptors. Tables and pure functions only; the reasons for
each reading are in docs/adr/0006-svirtb-ambiguities.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Self

from hwloop.errors import InvalidParam
from hwloop.spec import SECTOR_SIZE
from mmio import ReadOnly32, ReadWrite32, RegisterBlock

SVIRTB_BASE = 0xCAFE_0000
"""Where the registers always are (seed 002, 4)."""

ENTRY_BYTES = 28
LARGEST_QUEUE = 1 << 15
"""The protocol sets no limit. With this one a ring is below 1 MiB."""

_ENTRY = struct.Struct("<QQQI")


class VirtIoMmioHeader(RegisterBlock):
    """`struct VirtIoMmioHeader`: six le32, the high half of the address first (seed 002, 2 and 4).

    The driver may not write `queue_tail`, and the device may not write `queue_head`.
    """

    status = ReadWrite32(0x00)
    queue_size = ReadWrite32(0x04)
    queue_addr_hi = ReadWrite32(0x08)
    queue_addr_lo = ReadWrite32(0x0C)
    queue_head = ReadWrite32(0x10)
    queue_tail = ReadOnly32(0x14)


class VirtIoStatus(IntEnum):
    """What the status register can hold: one value at a time, not bits (seed 002, 2.1)."""

    MAGIC = 0x7472_6976
    """The little-endian `virt`: these registers are svirtb's, and nobody has begun to use them."""
    DRIVER_OK = 0
    READY = 1
    RESET = 2


class VirtQueueEntryCmd(IntEnum):
    """What an entry asks for (seed 002, 2.2.1)."""

    Read = 0
    Write = 1


@dataclass(frozen=True)
class VirtQueueEntry:
    """One request: `size` bytes at device address `addr`, from or to `sector` (seed 002, 2.2.1).

    `cmd` stays a number, since a device must be able to look at one that means nothing.
    """

    addr: int
    size: int
    sector: int
    cmd: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From the 28 bytes of an entry. Raises InvalidParam for another number of bytes."""
        if len(data) != ENTRY_BYTES:
            raise InvalidParam(f"a ring entry has {ENTRY_BYTES} bytes, not {len(data)}")
        return cls(*_ENTRY.unpack(data))

    def format(self) -> bytes:
        """The 28 bytes of the entry, little-endian and without padding. Raises InvalidParam for what does not fit."""
        try:
            return _ENTRY.pack(self.addr, self.size, self.sector, self.cmd)
        except struct.error:
            raise InvalidParam(f"{self} does not fit into a ring entry: three 64-bit fields and one of 32") from None


class Indices(Enum):
    """How `queue_head` and `queue_tail` go round."""

    MODULO = "modulo"
    """From 0 to queue_size - 1; one entry stays empty, since equal indices mean an empty ring."""
    FREE_RUNNING = "free-running"
    """Through all 32 bits, modulo queue_size only in the ring. The size has to be a power of two."""


class Tail(Enum):
    """What `queue_tail` names."""

    NEXT = "next"
    """The entry that the device consumes next; 0 at first. A ring is idle when it equals the head."""
    LAST = "last"
    """The entry that the device consumed last; one less than 0 at first."""


class ResetEndedBy(Enum):
    """Who ends the state RESET that a device in error is in."""

    DRIVER = "driver"
    """The device shows RESET until the driver writes RESET; then it shows MAGIC."""
    DEVICE = "device"
    """The device goes from RESET to MAGIC by itself, and the driver only waits."""


@dataclass(frozen=True)
class Interpretation:
    """How we read what seed 002 leaves open; driver and device must agree.

    `sector_size` is the unit of an entry's `sector`, in bytes, and what its `size` is a multiple of.
    """

    indices: Indices = Indices.MODULO
    tail: Tail = Tail.NEXT
    reset_ended_by: ResetEndedBy = ResetEndedBy.DRIVER
    sector_size: int = SECTOR_SIZE

    def __post_init__(self) -> None:
        if self.sector_size < SECTOR_SIZE or self.sector_size & (self.sector_size - 1):
            raise InvalidParam(f"a sector of {self.sector_size} bytes is no power of two from {SECTOR_SIZE} on")

    def check_queue_size(self, size: int) -> None:
        """Raises InvalidParam for a queue that these indices cannot work with."""
        if not 2 <= size <= LARGEST_QUEUE:
            raise InvalidParam(f"a queue cannot have {size} entries", remedy=f"choose 2 to {LARGEST_QUEUE}")
        if self.indices is Indices.FREE_RUNNING and size & (size - 1):
            raise InvalidParam(f"{size} entries with free-running indices", remedy="choose a power of two")

    def usable(self, size: int) -> int:
        """How many entries of a ring can be outstanding."""
        return size - 1 if self.indices is Indices.MODULO else size

    def wrap(self, position: int, size: int) -> int:
        """A position that counts up for ever, as an index register holds it."""
        return position % size if self.indices is Indices.MODULO else position & 0xFFFF_FFFF

    def tail_of(self, consumed: int, size: int) -> int:
        """What `queue_tail` holds after `consumed` entries."""
        return self.wrap(consumed - (self.tail is Tail.LAST), size)

    def progress(self, before: int, index: int, size: int) -> int | None:
        """How far an index that is now `index` went from position `before`; None for a value that it cannot have."""
        modulus = size if self.indices is Indices.MODULO else 1 << 32
        return (index - before) % modulus if index < modulus else None

    def consumed(self, done: int, tail: int, size: int) -> int | None:
        """How many entries the device consumed since `done`, by its tail; None for a tail that it cannot have."""
        return self.progress(done - (self.tail is Tail.LAST), tail, size)
