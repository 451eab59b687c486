"""The book-keeping of requests in flight: what was asked, where its memory is, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwloop.deadline import Deadline
from hwloop.device.blk_protocol import HEADER_BYTES, STATUS_NOT_WRITTEN, RequestType
from hwloop.errors import HwloopError
from hwloop.hal.base import BufferDirection, Dma
from hwloop.queue import Part
from hwloop.spec import PhysAddr

_REMIND_SECONDS = 1.0

DIRECTIONS = {
    RequestType.IN: BufferDirection.DeviceToDriver,
    RequestType.GET_ID: BufferDirection.DeviceToDriver,
    RequestType.OUT: BufferDirection.DriverToDevice,
}
"""Who reads and who writes the data of a request; a flush has none."""


@dataclass
class Request:
    """One request in flight.

    `data` is the caller's buffer (or ours), shared at `paddr`; `slot` which of the driver's slots it has, if any;
    `length` what of the data the device must have written for the request to be whole. `listed` requests are those
    that `poll` tells of; nobody asks for the result of one that is not `wanted`.
    """

    kind: RequestType
    sector: int
    data: bytearray | memoryview | bytes | None = None
    slot: int | None = None
    paddr: PhysAddr | None = None
    length: int = 0
    listed: bool = True
    wanted: bool = True
    error: HwloopError | None = None


@dataclass
class Patience:
    """A deadline, whether the device was reminded on the way there, and whether a last look was taken at its end."""

    deadline: Deadline
    reminded: bool = False
    looked: bool = False

    def is_over(self) -> bool:
        """Whether the time is over and the caller has looked once more since: a process that was not scheduled for a
        while must not fail a device that was in time."""
        if not self.deadline.expired():
            return False
        looked, self.looked = self.looked, True
        return looked

    def wants_another_notification(self) -> bool:
        """True once: after a second, or half of the time when that is less."""
        waited = self.deadline.seconds - self.deadline.remaining()
        if self.reminded or waited < min(_REMIND_SECONDS, self.deadline.seconds / 2):
            return False
        self.reminded = True
        return True


@dataclass
class Slots:
    """Header and status memory for a fixed number of requests: headers that the device may only read, status bytes
    that it may only write."""

    headers: Dma
    statuses: Dma
    free: list[int] = field(default_factory=list)

    def fill(self, slot: int, kind: RequestType, sector: int) -> None:
        header = kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")
        self.headers.view[slot * HEADER_BYTES : (slot + 1) * HEADER_BYTES] = header
        self.statuses.view[slot] = STATUS_NOT_WRITTEN

    def header(self, slot: int) -> Part:
        return PhysAddr(self.headers.paddr + slot * HEADER_BYTES), HEADER_BYTES

    def status(self, slot: int) -> Part:
        return PhysAddr(self.statuses.paddr + slot), 1
