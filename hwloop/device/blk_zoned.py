"""Zoned block devices: their zones, and what can be done with one (VIRTIO 1.4, 5.2.6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwloop.device.blk_formats import (
    APPEND_SECTOR_BYTES,
    ZONE_BYTES,
    ZoneDescriptor,
    ZonedModel,
    ZoneState,
    ZoneType,
    parse_report,
)
from hwloop.device.blk_limits import ZoneLimits
from hwloop.device.blk_protocol import RequestType
from hwloop.device.block import BlockDevice
from hwloop.errors import DeviceError, InvalidParam, Unsupported
from hwloop.spec import SECTOR_SIZE

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ZONES_AT_ONCE = 512
_HAVE_NO_POINTER = (ZoneState.NOT_WP, ZoneState.READ_ONLY, ZoneState.FULL, ZoneState.OFFLINE)


@dataclass(frozen=True)
class Zone:
    """One zone, in bytes. `capacity` of its `length` bytes can be written; `write_pointer` is where, or None where the
    type or the state of the zone has none."""

    offset: int
    length: int
    capacity: int
    write_pointer: int | None
    type: ZoneType
    state: ZoneState


class BlkZones(BlockDevice):
    """Zones are named by the offset of their first byte. Requests to zones raise Unsupported where the device is not
    zoned, InvalidParam for an offset that begins no zone, ReadOnlyDisk; IoError for what the device does not do, with
    ETOOMANYREFS where too many zones are open and EOVERFLOW where too many are active, as on Linux.

    Reads and writes of any length are split where zones end, since no request may reach from one zone that must be
    written in sequence into another.
    """

    @property
    def zoned_model(self) -> ZonedModel:
        """NONE also for a zoned device that manages its zones itself."""
        zones = self.limits.zones
        return ZonedModel.NONE if zones is None else zones.model

    def zones(self, offset: int = 0, count: int | None = None) -> list[Zone]:
        """Ask the device for its zones, from the one on that byte `offset` is in, and at most `count` of them.

        Raises InvalidParam for an offset that is not on the disk, DeviceError for a report that cannot be.
        """
        limits = self._zone_limits()
        if not 0 <= offset < self.size():
            raise InvalidParam(f"offset {offset} is not on the disk, which has {self.size()} bytes")
        found: list[Zone] = []
        position = offset // limits.zone_size * limits.zone_size
        while position < self.size() and (count is None or len(found) < count):
            left = _ZONES_AT_ONCE if count is None else count - len(found)
            found += self._report(position, limits, left)
            position = found[-1].offset + limits.zone_size
        return found

    def open_zone(self, offset: int) -> None:
        """Open the zone explicitly: its resources are taken until it is closed, finished or reset."""
        self._manage_zone(RequestType.ZONE_OPEN, offset)

    def close_zone(self, offset: int) -> None:
        """Close the zone; it stays active unless nothing was written to it."""
        self._manage_zone(RequestType.ZONE_CLOSE, offset)

    def finish_zone(self, offset: int) -> None:
        """Make the zone full, whatever was written to it."""
        self._manage_zone(RequestType.ZONE_FINISH, offset)

    def reset_zone(self, offset: int) -> None:
        """Make the zone empty; its data are lost."""
        self._manage_zone(RequestType.ZONE_RESET, offset)

    def reset_all_zones(self) -> None:
        """Make every zone empty that can be; all their data are lost."""
        self._zone_limits()
        self._check_writable()
        self._run(RequestType.ZONE_RESET_ALL, 0, None)

    def append_to_zone(self, offset: int, data: Buffer) -> int:
        """Write at the write pointer of the zone, wherever it is; returns the offset at which the data begin.

        One request: `data` is a multiple of `limits.zones.write_granularity` bytes, at most `limits.zones.max_append`
        and `limits.max_transfer`. Raises InvalidParam, and Unsupported where the device cannot append.
        """
        limits = self._zone_limits()
        view = memoryview(data).cast("B")
        self._check_writable()
        self._check_zone(limits, offset)
        _check_append(limits, view.nbytes)
        answer = bytearray(APPEND_SECTOR_BYTES)
        self._run(RequestType.ZONE_APPEND, offset // SECTOR_SIZE, view, answer=answer)
        where = int.from_bytes(answer, "little") * SECTOR_SIZE
        if not offset <= where <= where + view.nbytes <= offset + limits.zone_size:
            raise DeviceError(f"the device says that it appended at {where} to the zone at {offset}", section="5.2.6.2")
        return where

    def end_of_piece(self, position: int, end: int) -> int:
        end = super().end_of_piece(position, end)
        zones = self.limits.zones
        if zones is None or zones.model is not ZonedModel.HOST_MANAGED:
            return end
        return min(end, position // zones.zone_size * zones.zone_size + zones.zone_size)

    # --- Private ------------------------------------------------------------------------------------------------------

    def _zone_limits(self) -> ZoneLimits:
        self.check_working()
        if self.limits.zones is None:
            raise Unsupported("the disk has no zones: it does not offer VIRTIO_BLK_F_ZONED, or manages them itself")
        return self.limits.zones

    def _manage_zone(self, kind: RequestType, offset: int) -> None:
        self._check_zone(self._zone_limits(), offset)
        self._check_writable()
        self._run(kind, offset // SECTOR_SIZE, None)

    def _check_zone(self, limits: ZoneLimits, offset: int) -> None:
        if not 0 <= offset < self.size() or offset % limits.zone_size:
            raise InvalidParam(
                f"no zone begins at {offset}",
                remedy=f"zones have {limits.zone_size} bytes, and the disk has {self.size()}",
            )

    def _report(self, position: int, limits: ZoneLimits, most: int) -> Iterator[Zone]:
        """The zones of one request. Raises DeviceError for zones that do not follow one another."""
        room = min(ZONE_BYTES * (1 + min(most, _ZONES_AT_ONCE)), self.max_transfer())
        data = self._run(RequestType.ZONE_REPORT, position // SECTOR_SIZE, bytearray(room))
        found = list(parse_report(data))
        if not found:
            raise DeviceError(f"the device reports no zone at {position}", section="5.2.6")
        for zone in found:
            if zone.start * SECTOR_SIZE != position or position >= self.size():
                raise DeviceError(
                    f"the device reports a zone at sector {zone.start} where one at {position // SECTOR_SIZE} follows",
                    section="5.2.6",
                )
            length = min(limits.zone_size, self.size() - position)
            yield _zone(zone, length)
            position += length


def _zone(zone: ZoneDescriptor, length: int) -> Zone:
    """Raises DeviceError for a capacity or a write pointer that is not in the zone."""
    start, capacity, pointer = (value * SECTOR_SIZE for value in (zone.start, zone.capacity, zone.write_pointer))
    has_pointer = zone.state not in _HAVE_NO_POINTER
    if capacity > length or (has_pointer and not start <= pointer <= start + length):
        raise DeviceError(
            f"the zone at sector {zone.start} has {zone.capacity} sectors of {length // SECTOR_SIZE}, and its write "
            f"pointer at {zone.write_pointer}",
            section="5.2.6",
        )
    return Zone(start, length, capacity, pointer if has_pointer else None, zone.type, zone.state)


def _check_append(limits: ZoneLimits, length: int) -> None:
    if not limits.max_append:
        raise Unsupported("the device cannot append to zones: its max_append_sectors is 0")
    if not length or length % limits.write_granularity or length > limits.max_append:
        raise InvalidParam(
            f"{length} bytes cannot be appended in one request",
            remedy=f"give a multiple of {limits.write_granularity} bytes, at most {limits.max_append}",
        )
