"""A block device in process: the meaning of a `FakeDevice`'s requests, over a bytearray.

It serves every request of VIRTIO 1.4 (5.2.6), and only what was negotiated. A driver that breaks a rule of the block
protocol gets a `RuleBroken`; with `strict` off it gets the status that the specification has for it, as from a device
that is sold.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cython_ring import Chain
from hwloop.config import ReadOnly
from hwloop.device.blk_formats import (
    APPEND_SECTOR_BYTES,
    LIFETIME_BYTES,
    SEGMENT_BYTES,
    UNMAP,
    ZONE_BYTES,
    Lifetime,
    PreEol,
    Segment,
    ZonedModel,
    format_report,
)
from hwloop.device.blk_protocol import (
    CHANGES_DATA,
    DEVICE_ID_BYTES,
    FIELD_FEATURES,
    HEADER_BYTES,
    REQUEST_FEATURES,
    BlkConfig,
    RequestType,
    RespStatus,
    request_name,
)
from hwloop.device.fake_zones import FakeZones, ZoneRefused, ZoneShape
from hwloop.hal.fake import FakeHal
from hwloop.spec import SECTOR_SIZE, BlkFeature, DeviceStatus, DeviceType
from hwloop.transport.fake_device import MODERN, FakeDevice, RuleBroken

DISCARDED = 0xD5
"""What discarded sectors read as: nothing may be assumed of them (VIRTIO 1.4, 5.2.6.1), least of all zeros."""

_USUAL_FIELDS = {
    "writeback": 1,
    "num_queues": 1,
    "max_discard_sectors": 1 << 16,
    "max_discard_seg": 4,
    "discard_sector_alignment": 1,
    "max_write_zeroes_sectors": 1 << 16,
    "max_write_zeroes_seg": 4,
    "write_zeroes_may_unmap": 1,
    "max_secure_erase_sectors": 1 << 16,
    "max_secure_erase_seg": 4,
    "secure_erase_sector_alignment": 1,
}
"""Configuration of features that are offered, where the maker of a device says nothing else."""


_HARDLY_WORN = Lifetime(PreEol.NORMAL, 1, 2)


class RequestBroken(RuleBroken):
    """A request against the rules; `status` is what a device that is not strict answers."""

    def __init__(self, text: str, status: RespStatus = RespStatus.IO_ERR) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class BlkFaults:
    """One switch for each way in which requests may go wrong; each names how many further requests it spoils."""

    io_error: int = 0
    undefined_status: int = 0
    no_status: int = 0
    short_length: int = 0
    unsupported: int = 0


@dataclass(frozen=True)
class RangeRule:
    """The configuration that binds the segments of a request."""

    most_sectors: ReadOnly
    most_segments: ReadOnly
    flags: int = 0


RANGE_RULES = {
    RequestType.DISCARD: RangeRule(BlkConfig.max_discard_sectors, BlkConfig.max_discard_seg),
    RequestType.WRITE_ZEROES: RangeRule(BlkConfig.max_write_zeroes_sectors, BlkConfig.max_write_zeroes_seg, UNMAP),
    RequestType.SECURE_ERASE: RangeRule(BlkConfig.max_secure_erase_sectors, BlkConfig.max_secure_erase_seg),
}


class FakeBlk(FakeDevice):
    """A disk of `size` bytes (whole blocks). `data` is what is written, `durable` what was flushed.

    `config` has values of further fields by their names, `zones` the shape of a zoned device, which needs
    VIRTIO_BLK_F_ZONED.
    """

    data: bytearray | mmap.mmap

    def __init__(
        self,
        hal: FakeHal,
        size: int = 1 << 20,
        *,
        features: int = MODERN | BlkFeature.FLUSH | BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX,
        queue_size: int = 64,
        queues: int = 1,
        block_size: int = SECTOR_SIZE,
        serial: bytes = b"FAKE0",
        size_max: int = 0,
        seg_max: int = 126,
        lifetime: Lifetime = _HARDLY_WORN,
        zones: ZoneShape | None = None,
        config: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(hal, DeviceType.Block, features, [queue_size] * queues, bytes(_config_bytes(features)))
        self.data = self._new_storage(size)
        self.durable = bytearray(self._durable_bytes(size))
        self.serial = serial
        self.lifetime = lifetime
        self.strict = True
        self.blk_faults = BlkFaults()
        self.requests: list[RequestType] = []
        self.zones: FakeZones | None = None
        if zones is not None and zones.model is not ZonedModel.NONE:
            self.zones = FakeZones(zones, size // SECTOR_SIZE, self._forget)
        values = _USUAL_FIELDS | {
            "capacity": size // SECTOR_SIZE,
            "size_max": size_max,
            "seg_max": seg_max,
            "blk_size": block_size,
            "num_queues": queues,
        }
        for name, value in {**values, **_zoned_fields(zones), **(config or {})}.items():
            self._set_field(getattr(BlkConfig, name), value)
        self._writeback = self.field(BlkConfig.writeback)

    def _new_storage(self, size: int) -> bytearray | mmap.mmap:
        return bytearray(size)

    def _durable_bytes(self, size: int) -> int:
        """How much of the disk is kept a second time, to tell what was flushed."""
        return size

    # --- Configuration ------------------------------------------------------------------------------------------------

    def set_config(self, offset: int, width: int, value: int) -> None:
        """Change the configuration as a device does: the generation changes with it."""
        self.config[offset : offset + width] = value.to_bytes(width, "little")
        self.config_changed()

    def field(self, field: ReadOnly) -> int:
        return int.from_bytes(self.config[field.offset : field.end], "little")

    def _set_field(self, field: ReadOnly, value: int) -> None:
        if field.end <= len(self.config):
            self.config[field.offset : field.end] = value.to_bytes(field.width, "little")

    def read_config(self, offset: int, width: int) -> int:
        if offset == BlkConfig.writeback.offset and not self.legacy and not self.status & DeviceStatus.FEATURES_OK:
            raise RuleBroken("writeback was read before FEATURES_OK (5.2.5.1)")
        return super().read_config(offset, width)

    def write_config(self, offset: int, width: int, value: int) -> None:
        """Only `writeback` can be written (VIRTIO 1.4, 5.2.4 and 5.2.6.1)."""
        if (offset, width) != (BlkConfig.writeback.offset, 1) or not self._negotiated(BlkFeature.CONFIG_WCE):
            raise RuleBroken(f"{width} bytes at {offset} of the configuration were written (5.2.4)")
        if value > 1:
            raise RuleBroken(f"writeback cannot be {value} (5.2.6.1)")
        super().write_config(offset, width, value)

    def _kept(self, new: DeviceStatus) -> DeviceStatus:
        kept = super()._kept(new)
        if new & DeviceStatus.FEATURES_OK and not self.status & DeviceStatus.FEATURES_OK:
            kept = self._settle_features(kept)
        return kept

    def _settle_features(self, kept: DeviceStatus) -> DeviceStatus:
        """What depends on the features that were accepted (VIRTIO 1.4, 5.2.5.2)."""
        stays = self._negotiated(BlkFeature.FLUSH) or not self._negotiated(BlkFeature.CONFIG_WCE)
        self._set_field(BlkConfig.writeback, self._writeback if stays else 0)
        if self.zones is None or self.zones.shape.model is not ZonedModel.HOST_MANAGED:
            return kept
        if self._negotiated(BlkFeature.DISCARD):
            raise RuleBroken("VIRTIO_BLK_F_DISCARD was accepted of a host-managed zoned device (5.2.5.1)")
        return kept if self._negotiated(BlkFeature.ZONED) else kept & ~DeviceStatus.FEATURES_OK

    def _negotiated(self, feature: BlkFeature) -> bool:
        return bool(self.driver_features & feature)

    # --- Requests -----------------------------------------------------------------------------------------------------

    def serve(self, chain: Chain) -> int:
        everything = chain.read()
        header, payload = everything[:HEADER_BYTES], everything[HEADER_BYTES:]
        if len(header) < HEADER_BYTES or chain.writable_bytes < 1:
            raise RuleBroken("a request without a whole header and a status byte (5.2.6)")
        sector, room = int.from_bytes(header[8:], "little"), chain.writable_bytes - 1
        try:
            if any(header[4:8]):
                raise RequestBroken(f"the reserved bytes of the header are {header[4:8].hex()} (5.2.6)")
            number = int.from_bytes(header[:4], "little")
            self._check_segments(chain, number)
            status, answer = self._answer(number, sector, payload, room)
        except RequestBroken as broken:
            if self.strict:
                raise
            status, answer = broken.status, b""
        except ZoneRefused as refused:
            status, answer = refused.status, b""
        chain.write(answer[:room])
        return self._complete(chain, room, status)

    def _answer(self, number: int, sector: int, payload: bytes, room: int) -> tuple[int, bytes]:
        if self.blk_faults.io_error:
            self.blk_faults.io_error -= 1
            return RespStatus.IO_ERR, b""
        if self.blk_faults.unsupported or number not in list(RequestType):
            self.blk_faults.unsupported = max(0, self.blk_faults.unsupported - 1)
            return RespStatus.UNSUPPORTED, b""
        kind = RequestType(number)
        self.requests.append(kind)
        needed = REQUEST_FEATURES.get(kind)
        if needed is not None and not self._negotiated(needed):
            raise RequestBroken(f"{request_name(kind)} without {needed!r} (5.2.6)", RespStatus.UNSUPPORTED)
        if kind in CHANGES_DATA and self.features & BlkFeature.RO:
            raise RequestBroken(f"{kind.name} was sent to a read-only disk (5.2.6)")
        return RespStatus.OK, _HANDLERS[kind](self, sector, payload, room)

    def _check_segments(self, chain: Chain, number: int) -> None:
        """VIRTIO 1.4, 5.2.6: size_max and seg_max bind the data, without header, status and append_sector."""
        answer = [] if number == RequestType.ZONE_APPEND else chain.writable[:-1]
        segments = [length for _, length in (*chain.readable[1:], *answer)]
        seg_max = self._limit(BlkFeature.SEG_MAX, BlkConfig.seg_max)
        size_max = self._limit(BlkFeature.SIZE_MAX, BlkConfig.size_max)
        if seg_max and len(segments) > seg_max:
            raise RequestBroken(f"a request of {len(segments)} segments, more than seg_max {seg_max} (5.2.6)")
        if size_max and max(segments, default=0) > size_max:
            raise RequestBroken(f"a segment of {max(segments)} bytes, more than size_max {size_max} (5.2.6)")

    def _limit(self, feature: BlkFeature, field: ReadOnly) -> int:
        """A limit of the configuration, 0 when it was not negotiated or says nothing."""
        return self.field(field) if self._negotiated(feature) else 0

    def _complete(self, chain: Chain, room: int, status: int) -> int:
        if self.blk_faults.no_status:
            self.blk_faults.no_status -= 1
            return room
        if self.blk_faults.undefined_status:
            self.blk_faults.undefined_status -= 1
            status = 0x77
        chain.write(bytes([status]), room)
        if self.blk_faults.short_length:
            self.blk_faults.short_length -= 1
            return 1
        return room + 1

    # --- Reading, writing, flushing -----------------------------------------------------------------------------------

    def _read(self, sector: int, payload: bytes, room: int) -> bytes:
        start = self._check(sector, room)
        if self.zones is not None:
            self.zones.check_read(sector, room // SECTOR_SIZE)
        return bytes(self.data[start : start + room])

    def _write(self, sector: int, payload: bytes, room: int) -> bytes:
        start = self._check(sector, len(payload))
        if self.zones is not None:
            self.zones.write(sector, len(payload) // SECTOR_SIZE)
        self._store(start, payload)
        return b""

    def _flush(self, sector: int, payload: bytes, room: int) -> bytes:
        if sector or payload:
            raise RequestBroken("a flush with a sector or with data (5.2.6.1)")
        self._make_durable(0, len(self.data))
        return b""

    def _get_id(self, sector: int, payload: bytes, room: int) -> bytes:
        if room != DEVICE_ID_BYTES:
            raise RequestBroken(f"GET_ID with a buffer of {room} bytes; it has {DEVICE_ID_BYTES} (5.2.6.1)")
        return self.serial.ljust(DEVICE_ID_BYTES, b"\0")

    def _get_lifetime(self, sector: int, payload: bytes, room: int) -> bytes:
        if sector or room != LIFETIME_BYTES:
            raise RequestBroken(f"GET_LIFETIME with sector {sector} and a buffer of {room} bytes (5.2.6)")
        return self.lifetime.format()

    def _check(self, sector: int, length: int) -> int:
        if not length or length % SECTOR_SIZE:
            raise RequestBroken(f"a request of {length} bytes, which is not whole sectors (5.2.6.1)")
        if sector * SECTOR_SIZE + length > len(self.data):
            raise RequestBroken(f"a request for {length} bytes at sector {sector}, behind the capacity (5.2.6.1)")
        return sector * SECTOR_SIZE

    # --- Ranges -------------------------------------------------------------------------------------------------------

    def _discard(self, sector: int, payload: bytes, room: int) -> bytes:
        for segment in self._segments(RequestType.DISCARD, sector, payload, room):
            self._drop(segment)
        return b""

    def _write_zeroes(self, sector: int, payload: bytes, room: int) -> bytes:
        segments = self._segments(RequestType.WRITE_ZEROES, sector, payload, room)
        for segment in segments:
            if self.zones is not None:
                self.zones.write(segment.sector, segment.sectors)
            self._zero(segment)
        return b""

    def _secure_erase(self, sector: int, payload: bytes, room: int) -> bytes:
        alignment = max(1, self.field(BlkConfig.secure_erase_sector_alignment))
        for segment in self._segments(RequestType.SECURE_ERASE, sector, payload, room):
            if segment.sector % alignment or (segment.sectors % alignment and not self._reaches_end(segment)):
                raise RequestBroken(f"SECURE_ERASE of {segment}, which is not aligned to {alignment} (5.2.5)")
            if self.zones is not None:
                self.zones.erase_range(segment.sector, segment.sectors)
            self._zero(segment)
        return b""

    def _segments(self, kind: RequestType, sector: int, payload: bytes, room: int) -> list[Segment]:
        """The ranges of a request, all of them checked before anything is done (VIRTIO 1.4, 5.2.6.1)."""
        if sector or room or not payload or len(payload) % SEGMENT_BYTES:
            raise RequestBroken(f"{kind.name} with sector {sector}, {len(payload)} bytes of data, {room} to write")
        rule = RANGE_RULES[kind]
        segments = [
            Segment.parse(payload[at : at + SEGMENT_BYTES]) for at in range(0, len(payload), SEGMENT_BYTES)
        ]  # fmt: skip
        most, longest = self.field(rule.most_segments), self.field(rule.most_sectors)
        if len(segments) > max(1, most):
            raise RequestBroken(f"{kind.name} of {len(segments)} segments, more than {most} (5.2.6.1)")
        for segment in segments:
            if segment.flags & ~rule.flags:
                raise RequestBroken(f"{kind.name} with flags {segment.flags:#x} (5.2.6.1)", RespStatus.UNSUPPORTED)
            if longest and segment.sectors > longest:
                raise RequestBroken(f"{kind.name} of {segment.sectors} sectors, more than {longest} (5.2.5)")
            self._check(segment.sector, segment.sectors * SECTOR_SIZE)
        return segments

    def _reaches_end(self, segment: Segment) -> bool:
        return (segment.sector + segment.sectors) * SECTOR_SIZE == len(self.data)

    # --- Zones --------------------------------------------------------------------------------------------------------

    def _zone_append(self, sector: int, payload: bytes, room: int) -> bytes:
        zones = self._zones()
        if room != APPEND_SECTOR_BYTES or not payload or len(payload) % zones.shape.write_granularity:
            raise RequestBroken(
                f"ZONE_APPEND of {len(payload)} bytes with {room} to write (5.2.6.1)", RespStatus.ZONE_INVALID_CMD
            )
        self._check_zone_start("ZONE_APPEND", sector)
        if len(payload) > zones.shape.max_append * SECTOR_SIZE and zones.shape.max_append:
            raise RequestBroken(f"ZONE_APPEND of {len(payload)} bytes (5.2.6.1)", RespStatus.ZONE_INVALID_CMD)
        first = zones.append(sector, len(payload) // SECTOR_SIZE)
        self._store(first * SECTOR_SIZE, payload)
        return first.to_bytes(APPEND_SECTOR_BYTES, "little")

    def _zone_report(self, sector: int, payload: bytes, room: int) -> bytes:
        zones = self._zones()
        if payload or room < ZONE_BYTES or sector >= zones.zones[-1].end:
            raise RequestBroken(
                f"ZONE_REPORT of sector {sector} into {room} bytes (5.2.6)", RespStatus.ZONE_INVALID_CMD
            )
        return format_report(list(zones.report(sector))[: room // ZONE_BYTES - 1])

    def _zone_open(self, sector: int, payload: bytes, room: int) -> bytes:
        return self._manage(self._zones().open, sector, payload, room)

    def _zone_close(self, sector: int, payload: bytes, room: int) -> bytes:
        return self._manage(self._zones().close, sector, payload, room)

    def _zone_finish(self, sector: int, payload: bytes, room: int) -> bytes:
        return self._manage(self._zones().finish, sector, payload, room)

    def _zone_reset(self, sector: int, payload: bytes, room: int) -> bytes:
        return self._manage(self._zones().reset, sector, payload, room)

    def _zone_reset_all(self, sector: int, payload: bytes, room: int) -> bytes:
        zones = self._zones()
        if sector or payload or room:
            raise RequestBroken("ZONE_RESET_ALL with a sector or with data (5.2.6.1)", RespStatus.ZONE_INVALID_CMD)
        zones.reset_all()
        return b""

    def _manage(self, action: Callable[[int], None], sector: int, payload: bytes, room: int) -> bytes:
        if payload or room:
            raise RequestBroken("a zone request with data (5.2.6)", RespStatus.ZONE_INVALID_CMD)
        self._check_zone_start("a zone request", sector)
        action(sector)
        return b""

    def _check_zone_start(self, what: str, sector: int) -> None:
        if sector % self._zones().shape.zone_sectors or sector * SECTOR_SIZE >= len(self.data):
            raise RequestBroken(
                f"{what} at sector {sector}, where no zone begins (5.2.6.1)", RespStatus.ZONE_INVALID_CMD
            )

    def _zones(self) -> FakeZones:
        if self.zones is None:
            raise RequestBroken("a zone request to a device without zones (5.2.6)", RespStatus.UNSUPPORTED)
        return self.zones

    # --- Storage ------------------------------------------------------------------------------------------------------

    def _store(self, start: int, data: bytes) -> None:
        self.data[start : start + len(data)] = data
        self._settle_write(start, len(data))

    def _zero(self, segment: Segment) -> None:
        self._store(segment.sector * SECTOR_SIZE, bytes(segment.sectors * SECTOR_SIZE))

    def _drop(self, segment: Segment) -> None:
        """The device forgets a range: what it reads as is for nobody to rely on."""
        self._store(segment.sector * SECTOR_SIZE, bytes([DISCARDED]) * (segment.sectors * SECTOR_SIZE))

    def _forget(self, first: int, end: int) -> None:
        """Sectors of a zone are unwritten from now on."""
        self._store(first * SECTOR_SIZE, bytes((end - first) * SECTOR_SIZE))

    def _settle_write(self, start: int, length: int) -> None:
        """A write that is stable when it completes: without FLUSH, or with a cache that writes through (5.2.6.2)."""
        if self._negotiated(BlkFeature.CONFIG_WCE):
            stable = not self.field(BlkConfig.writeback)
        else:
            stable = not self._negotiated(BlkFeature.FLUSH)
        if stable:
            self._make_durable(start, length)

    def _make_durable(self, start: int, length: int) -> None:
        self.durable[start : start + length] = self.data[start : start + length]


def _config_bytes(features: int) -> int:
    """A device's configuration ends behind the last field that its features say exists."""
    offered = [fields_ for feature, fields_ in FIELD_FEATURES.items() if not feature or features & feature]
    return max(60, *(-(-field.end // 4) * 4 for group in offered for field in group))


def _zoned_fields(shape: ZoneShape | None) -> dict[str, int]:
    if shape is None:
        return {}
    return {
        "zone_sectors": shape.zone_sectors,
        "max_open_zones": shape.max_open,
        "max_active_zones": shape.max_active,
        "max_append_sectors": shape.max_append,
        "write_granularity": shape.write_granularity,
        "zoned_model": shape.model,
    }


_HANDLERS: dict[RequestType, Callable[[FakeBlk, int, bytes, int], bytes]] = {
    RequestType.IN: FakeBlk._read,
    RequestType.OUT: FakeBlk._write,
    RequestType.FLUSH: FakeBlk._flush,
    RequestType.GET_ID: FakeBlk._get_id,
    RequestType.GET_LIFETIME: FakeBlk._get_lifetime,
    RequestType.DISCARD: FakeBlk._discard,
    RequestType.WRITE_ZEROES: FakeBlk._write_zeroes,
    RequestType.SECURE_ERASE: FakeBlk._secure_erase,
    RequestType.ZONE_APPEND: FakeBlk._zone_append,
    RequestType.ZONE_REPORT: FakeBlk._zone_report,
    RequestType.ZONE_OPEN: FakeBlk._zone_open,
    RequestType.ZONE_CLOSE: FakeBlk._zone_close,
    RequestType.ZONE_FINISH: FakeBlk._zone_finish,
    RequestType.ZONE_RESET: FakeBlk._zone_reset,
    RequestType.ZONE_RESET_ALL: FakeBlk._zone_reset_all,
}
