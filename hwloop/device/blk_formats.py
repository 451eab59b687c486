"""What requests of a block device carry besides sectors: ranges, lifetimes, zones (VIRTIO 1.4, 5.2.6).

`parse` and `format` are pure. Positions and lengths are sectors of 512 bytes here, as they are on the wire.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from hwloop.errors import DeviceError

LIFETIME_BYTES = 6
ZONE_BYTES = 64
"""A zone's descriptor, and the header of a report in front of the first one."""
APPEND_SECTOR_BYTES = 8
"""What the device writes in front of the status of ZONE_APPEND."""

_SEGMENT = struct.Struct("<QII")
_LIFETIME = struct.Struct("<HHH")
_ZONE = struct.Struct("<QQQBB38x")

SEGMENT_BYTES = _SEGMENT.size
UNMAP = 1
"""The only flag of a segment that there is."""


@dataclass(frozen=True)
class Segment:
    """A range of DISCARD, WRITE_ZEROES or SECURE_ERASE: `sectors` of them from `sector` on."""

    sector: int
    sectors: int
    flags: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        return cls(*_SEGMENT.unpack(data))

    def format(self) -> bytes:
        return _SEGMENT.pack(self.sector, self.sectors, self.flags)


class PreEol(IntEnum):
    """How many of its reserved blocks a device has used up."""

    UNDEFINED = 0
    NORMAL = 1
    WARNING = 2
    URGENT = 3


_PRE_EOL = {
    PreEol.UNDEFINED: "not known",
    PreEol.NORMAL: "less than 80% of the reserved blocks are used up",
    PreEol.WARNING: "80% of the reserved blocks are used up",
    PreEol.URGENT: "90% of the reserved blocks are used up",
}
_LIFETIME_OVER = 11


@dataclass(frozen=True)
class Lifetime:
    """How worn a device is. `estimate_a` is of its SLC cells and `estimate_b` of its MLC cells: 0 not known, N from 1
    to 10 at most N * 10% of the lifetime used, 11 past its end."""

    pre_eol: PreEol
    estimate_a: int
    estimate_b: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises DeviceError for a reserved value, which no device may send (VIRTIO 1.4, 5.2.6.2)."""
        pre_eol, a, b = _LIFETIME.unpack(data)
        if pre_eol > max(PreEol) or max(a, b) > _LIFETIME_OVER:
            raise DeviceError(f"the device tells a lifetime of reserved values: {pre_eol}, {a}, {b}", section="5.2.6.2")
        return cls(PreEol(pre_eol), a, b)

    def format(self) -> bytes:
        """The answer to GET_LIFETIME: what `parse` reads."""
        return _LIFETIME.pack(self.pre_eol, self.estimate_a, self.estimate_b)

    def __str__(self) -> str:
        return f"{_PRE_EOL[self.pre_eol]}; SLC {_used(self.estimate_a)}, MLC {_used(self.estimate_b)}"


def _used(estimate: int) -> str:
    if not estimate:
        return "not known"
    return "past its end" if estimate == _LIFETIME_OVER else f"{10 * estimate - 10} to {10 * estimate}% used"


class ZonedModel(IntEnum):
    """What kind of zoned device it is (VIRTIO 1.4, 5.2.4)."""

    NONE = 0
    HOST_MANAGED = 1
    HOST_AWARE = 2


class ZoneType(IntEnum):
    """Conventional, or one that must, or should, be written in sequence (VIRTIO 1.4, 5.2.6)."""

    CONVENTIONAL = 1
    SEQUENTIAL_REQUIRED = 2
    SEQUENTIAL_PREFERRED = 3


class ZoneState(IntEnum):
    """VIRTIO 1.4, 5.2.6."""

    NOT_WP = 0
    EMPTY = 1
    IMPLICITLY_OPEN = 2
    EXPLICITLY_OPEN = 3
    CLOSED = 4
    READ_ONLY = 13
    FULL = 14
    OFFLINE = 15


@dataclass(frozen=True)
class ZoneDescriptor:
    """A zone as a report has it. `write_pointer` means nothing where the type or the state has none."""

    start: int
    capacity: int
    write_pointer: int
    type: ZoneType
    state: ZoneState

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises DeviceError for a type or a state that does not exist."""
        capacity, start, write_pointer, kind, state = _ZONE.unpack(data)
        try:
            return cls(start, capacity, write_pointer, ZoneType(kind), ZoneState(state))
        except ValueError as error:
            raise DeviceError(f"the zone at sector {start}: {error}", section="5.2.6") from None

    def format(self) -> bytes:
        return _ZONE.pack(self.capacity, self.start, self.write_pointer, self.type, self.state)


def format_report(zones: list[ZoneDescriptor]) -> bytes:
    """The answer to ZONE_REPORT."""
    return b"".join([len(zones).to_bytes(8, "little").ljust(ZONE_BYTES, b"\0"), *(zone.format() for zone in zones)])


def parse_report(data: bytes) -> Iterator[ZoneDescriptor]:
    """The zones of a report. Raises DeviceError for a report of more zones than there is room for."""
    count, room = int.from_bytes(data[:8], "little"), len(data) // ZONE_BYTES - 1
    if count > room:
        raise DeviceError(f"a report of {count} zones in a buffer for {room}", section="5.2.6")
    for index in range(1, count + 1):
        yield ZoneDescriptor.parse(data[index * ZONE_BYTES : (index + 1) * ZONE_BYTES])
