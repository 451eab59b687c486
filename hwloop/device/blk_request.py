"""The book-keeping of requests in flight: what was asked, and where its memory is."""

from __future__ import annotations

from dataclasses import dataclass

from hwloop.device.blk_protocol import RequestType
from hwloop.errors import HwloopError
from hwloop.hal.base import BufferDirection
from hwloop.spec import SECTOR_SIZE, PhysAddr

DIRECTIONS = {
    RequestType.IN: BufferDirection.DeviceToDriver,
    RequestType.GET_ID: BufferDirection.DeviceToDriver,
    RequestType.GET_LIFETIME: BufferDirection.DeviceToDriver,
    RequestType.ZONE_REPORT: BufferDirection.DeviceToDriver,
    RequestType.OUT: BufferDirection.DriverToDevice,
    RequestType.DISCARD: BufferDirection.DriverToDevice,
    RequestType.WRITE_ZEROES: BufferDirection.DriverToDevice,
    RequestType.SECURE_ERASE: BufferDirection.DriverToDevice,
    RequestType.ZONE_APPEND: BufferDirection.DriverToDevice,
}
"""Who reads and who writes the data of a request; the others have none."""

_HARMLESS = {
    RequestType.IN,
    RequestType.FLUSH,
    RequestType.GET_ID,
    RequestType.GET_LIFETIME,
    RequestType.ZONE_REPORT,
    RequestType.ZONE_OPEN,
    RequestType.ZONE_CLOSE,
}
"""What leaves every sector as it is."""


@dataclass
class Request:
    """One request in flight.

    `data` is the caller's buffer, or a bytearray of ours, shared at `paddr`; `in_place` when the device has reached it
    there all the time. `slot` is which of the driver's slots it has, if any;
    `length` what of the data the device must have written for the request to be whole. `answer`, shared at
    `answer_paddr`, is what the device writes besides, in front of the status (VIRTIO 1.4, 5.2.6: append_sector).
    `listed` requests are those that `poll` tells of; nobody asks for the result of one that is not `wanted`. One that
    changes the disk is `overtaken` when a newer one that changes some of the same sectors has completed before it.
    """

    kind: RequestType
    sector: int
    data: bytearray | memoryview | bytes | None = None
    slot: int | None = None
    paddr: PhysAddr | None = None
    in_place: bool = False
    length: int = 0
    answer: bytearray | None = None
    answer_paddr: PhysAddr | None = None
    listed: bool = True
    wanted: bool = True
    overtaken: bool = False
    error: HwloopError | None = None

    def changes_what(self, other: Request) -> bool:
        """Whether both change the disk, and perhaps the same sectors: of requests that are no writes the ranges are in
        their data, which is not looked into."""
        if self.kind in _HARMLESS or other.kind in _HARMLESS:
            return False
        if self.kind is not RequestType.OUT or other.kind is not RequestType.OUT:
            return True
        return self.sector < other._end and other.sector < self._end

    @property
    def not_again(self) -> str:
        """Why this must not be sent once more by somebody who does not know whether it was done, or ""."""
        if self.kind is RequestType.ZONE_APPEND:
            return "it would be appended twice"
        return "a newer request has changed the same sectors since" if self.overtaken else ""

    @property
    def _end(self) -> int:
        return self.sector + len(self.data or b"") // SECTOR_SIZE
