"""The zones of a zoned block device: types, states, write pointers, and who may become what (VIRTIO 1.4, 5.2.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hwloop.device.blk_formats import ZoneDescriptor, ZonedModel, ZoneState, ZoneType
from hwloop.device.blk_protocol import RespStatus

S = ZoneState
_OPEN = (S.IMPLICITLY_OPEN, S.EXPLICITLY_OPEN)
_ACTIVE = (*_OPEN, S.CLOSED)
_WRITABLE = (S.EMPTY, *_ACTIVE)
_MAY_OPEN = _WRITABLE
_MAY_CLOSE = _ACTIVE
_MAY_FINISH = (*_OPEN, S.FULL)
_MAY_RESET = (*_WRITABLE, S.FULL)
_TYPES = {
    ZonedModel.HOST_MANAGED: ZoneType.SEQUENTIAL_REQUIRED,
    ZonedModel.HOST_AWARE: ZoneType.SEQUENTIAL_PREFERRED,
}


class ZoneRefused(Exception):
    """A zone cannot do what a request asks for; `status` is what the device answers."""

    def __init__(self, status: RespStatus) -> None:
        super().__init__(status.name)
        self.status = status


@dataclass(frozen=True)
class ZoneShape:
    """The zoned characteristics of a device, in sectors but for `write_granularity`, which is in bytes; 0 is no limit.

    The first `conventional` zones are such. `zone_capacity` of each other zone can be written; 0: all of it.
    """

    model: ZonedModel = ZonedModel.HOST_MANAGED
    zone_sectors: int = 2048
    conventional: int = 0
    zone_capacity: int = 0
    max_open: int = 0
    max_active: int = 0
    max_append: int = 256
    write_granularity: int = 512


@dataclass(eq=False)
class FakeZone:
    """One zone: `end` is behind its last sector, `full_at` behind the last one that can be written."""

    start: int
    end: int
    full_at: int
    type: ZoneType
    state: ZoneState
    write_pointer: int

    @property
    def required(self) -> bool:
        return self.type is ZoneType.SEQUENTIAL_REQUIRED

    @property
    def sequential(self) -> bool:
        return self.type is not ZoneType.CONVENTIONAL

    def describe(self) -> ZoneDescriptor:
        return ZoneDescriptor(self.start, self.full_at - self.start, self.write_pointer, self.type, self.state)


class FakeZones:
    """The zones of a device of `capacity` sectors.

    `erase(first, last)` is told which sectors are unwritten from now on. Each call that a request makes raises
    ZoneRefused and changes nothing where the zone cannot.
    """

    def __init__(self, shape: ZoneShape, capacity: int, erase: Callable[[int, int], None]) -> None:
        self.shape = shape
        self._erase = erase
        self._opened: list[FakeZone] = []
        """Implicitly open zones, the one that was opened first in front."""
        starts = range(0, capacity, shape.zone_sectors)
        self.zones = [self._new(index, start, capacity) for index, start in enumerate(starts)]

    def _new(self, index: int, start: int, capacity: int) -> FakeZone:
        end = min(start + self.shape.zone_sectors, capacity)
        if index < self.shape.conventional:
            return FakeZone(start, end, end, ZoneType.CONVENTIONAL, S.NOT_WP, 0)
        full_at = min(end, start + (self.shape.zone_capacity or self.shape.zone_sectors))
        return FakeZone(start, end, full_at, _TYPES[self.shape.model], S.EMPTY, start)

    def at(self, sector: int) -> FakeZone:
        """The zone that a sector of the device is in."""
        return self.zones[sector // self.shape.zone_sectors]

    def between(self, sector: int, count: int) -> list[FakeZone]:
        """The zones that a range is in."""
        last = sector + max(count, 1) - 1
        return self.zones[sector // self.shape.zone_sectors : last // self.shape.zone_sectors + 1]

    # --- Data ---------------------------------------------------------------------------------------------------------

    def check_read(self, sector: int, count: int) -> None:
        zones = self.between(sector, count)
        _need(all(zone.state is not S.OFFLINE for zone in zones))
        _need(len(zones) == 1 or not any(zone.required for zone in zones))

    def write(self, sector: int, count: int) -> None:
        """The range is about to be written."""
        zones = self.between(sector, count)
        required = any(zone.required for zone in zones)
        _need(len(zones) == 1 or not required)
        _need(all(zone.state not in (S.OFFLINE, S.READ_ONLY) for zone in zones))
        if required:
            self._write_in_sequence(zones[0], sector, count)
            return
        for zone in zones:
            if zone.sequential:
                self._write_anywhere(zone, min(sector + count, zone.end))

    def append(self, start: int, count: int) -> int:
        """The range at the write pointer is about to be written; returns its first sector."""
        zone = self._named(start)
        _need(zone.required)
        if count > self.shape.max_append:
            raise ZoneRefused(RespStatus.ZONE_INVALID_CMD if self.shape.max_append else RespStatus.UNSUPPORTED)
        first = zone.write_pointer
        self._write_in_sequence(zone, first, count)
        return first

    def _write_in_sequence(self, zone: FakeZone, sector: int, count: int) -> None:
        _need(zone.state in _WRITABLE)
        granularity = max(1, self.shape.write_granularity // 512)
        if sector != zone.write_pointer or (sector + count) % granularity:
            raise ZoneRefused(RespStatus.ZONE_UNALIGNED_WP)
        _need(sector + count <= zone.full_at)
        self._open_implicitly(zone)
        self._advance(zone, sector + count)

    def _write_anywhere(self, zone: FakeZone, end: int) -> None:
        if zone.state in _WRITABLE:
            self._open_implicitly(zone)
            self._advance(zone, max(zone.write_pointer, end))

    def _advance(self, zone: FakeZone, pointer: int) -> None:
        zone.write_pointer = pointer
        if pointer >= zone.full_at:
            self._become(zone, S.FULL)

    # --- Management ---------------------------------------------------------------------------------------------------

    def open(self, start: int) -> None:
        zone = self._managed(start, _MAY_OPEN)
        self._take_resources(zone)
        self._become(zone, S.EXPLICITLY_OPEN)

    def close(self, start: int) -> None:
        zone = self._managed(start, _MAY_CLOSE)
        empty = zone.state is S.EXPLICITLY_OPEN and zone.write_pointer == zone.start
        self._become(zone, S.EMPTY if empty else S.CLOSED)

    def finish(self, start: int) -> None:
        zone = self._managed(start, _MAY_FINISH)
        if zone.state is not S.FULL:
            self._erase(zone.write_pointer, zone.end)
        self._become(zone, S.FULL)

    def reset(self, start: int) -> None:
        self._empty(self._managed(start, _MAY_RESET))

    def reset_all(self) -> None:
        """Every zone that can be; the others stay as they are."""
        for zone in self.zones:
            if zone.state in (*_ACTIVE, S.FULL):
                self._empty(zone)

    def erase_range(self, sector: int, count: int) -> None:
        """SECURE_ERASE of whole zones is their reset; conventional ones are only erased."""
        zones = self.between(sector, count)
        _need(all(not zone.sequential or zone.state in _MAY_RESET for zone in zones))
        for zone in zones:
            if zone.sequential:
                self._empty(zone)
            else:
                self._erase(zone.start, zone.end)

    def report(self, sector: int) -> Iterator[ZoneDescriptor]:
        """The zones from the one on that a sector is in."""
        for zone in self.zones[sector // self.shape.zone_sectors :]:
            yield zone.describe()

    def break_zone(self, index: int, state: ZoneState) -> None:
        """A zone becomes READ_ONLY or OFFLINE, as hardware does that fails."""
        self._become(self.zones[index], state)

    # --- States -------------------------------------------------------------------------------------------------------

    def _named(self, start: int) -> FakeZone:
        _need(start < self.zones[-1].end)
        zone = self.at(start)
        _need(zone.start == start)
        return zone

    def _managed(self, start: int, allowed: tuple[ZoneState, ...]) -> FakeZone:
        zone = self._named(start)
        _need(zone.sequential and zone.state in allowed)
        return zone

    def _empty(self, zone: FakeZone) -> None:
        self._become(zone, S.EMPTY)
        zone.write_pointer = zone.start
        self._erase(zone.start, zone.end)

    def _open_implicitly(self, zone: FakeZone) -> None:
        if zone.state not in _OPEN:
            self._take_resources(zone)
            self._become(zone, S.IMPLICITLY_OPEN)

    def _take_resources(self, zone: FakeZone) -> None:
        """Room for one more open zone, and one more active one where it is none yet."""
        if zone.state not in _ACTIVE and 0 < self.shape.max_active <= self._count(_ACTIVE):
            raise ZoneRefused(RespStatus.ZONE_ACTIVE_RESOURCE)
        if zone.state in _OPEN or not 0 < self.shape.max_open <= self._count(_OPEN):
            return
        if not self._opened:
            raise ZoneRefused(RespStatus.ZONE_OPEN_RESOURCE)
        self._become(self._opened[0], S.CLOSED)

    def _count(self, states: tuple[ZoneState, ...]) -> int:
        return sum(zone.state in states for zone in self.zones)

    def _become(self, zone: FakeZone, state: ZoneState) -> None:
        if zone in self._opened:
            self._opened.remove(zone)
        zone.state = state
        if state is S.IMPLICITLY_OPEN:
            self._opened.append(zone)


def _need(fulfilled: bool) -> None:
    if not fulfilled:
        raise ZoneRefused(RespStatus.ZONE_INVALID_CMD)
