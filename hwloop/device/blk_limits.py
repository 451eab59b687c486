"""What a block device says of its own limits, in bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwloop.config import ReadOnly
from hwloop.device.blk_formats import ZonedModel
from hwloop.device.blk_protocol import BlkConfig
from hwloop.errors import DeviceError
from hwloop.spec import SECTOR_SIZE, BlkFeature


@dataclass(frozen=True)
class Geometry:
    """VIRTIO_BLK_F_GEOMETRY: what a BIOS of the last century wanted to know."""

    cylinders: int
    heads: int
    sectors: int


@dataclass(frozen=True)
class RangeLimits:
    """What binds DISCARD, WRITE_ZEROES or SECURE_ERASE: bytes of a segment (None: any), segments of a request, and the
    alignment in bytes at which a long range is cut."""

    most: int | None
    segments: int
    alignment: int


@dataclass(frozen=True)
class ZoneLimits:
    """The zoned characteristics: bytes, and counts of zones where 0 is no limit; `max_append` 0: it cannot append."""

    model: ZonedModel
    zone_size: int
    max_open: int
    max_active: int
    max_append: int
    write_granularity: int


@dataclass(frozen=True)
class BlkLimits:
    """The limits of a disk in bytes (VIRTIO 1.4, 5.2.4); hwloop keeps to them by splitting. None: it says nothing.

    `max_transfer` is what one request carries, in at most `max_segments` of `max_segment` bytes each. The topology
    (`physical_block_size`, `alignment_offset`, `min_io`, `opt_io`) is advice. `discard`, `write_zeroes`,
    `secure_erase` and `zones` are None where the device cannot do that.
    """

    block_size: int
    max_transfer: int
    max_segment: int | None = None
    max_segments: int | None = None
    geometry: Geometry | None = None
    physical_block_size: int | None = None
    alignment_offset: int | None = None
    min_io: int | None = None
    opt_io: int | None = None
    discard: RangeLimits | None = None
    write_zeroes: RangeLimits | None = None
    write_zeroes_may_unmap: bool = False
    secure_erase: RangeLimits | None = None
    zones: ZoneLimits | None = None


class LimitsReader:
    """Reads the limits of the features that `negotiated` has; `read` gives the value of a field.

    Raises DeviceError for what cannot be.
    """

    def __init__(self, negotiated: int, block_size: int, read: Callable[[ReadOnly], int]) -> None:
        self._negotiated = negotiated
        self._block = block_size
        self._read = read

    def limits(self, max_transfer: int) -> BlkLimits:
        """All of them; to be called until it is consistent."""
        may_unmap = self._has(BlkFeature.WRITE_ZEROES) and bool(self._read(BlkConfig.write_zeroes_may_unmap))
        return BlkLimits(
            block_size=self._block,
            max_transfer=max_transfer,
            max_segment=self._of(BlkFeature.SIZE_MAX, BlkConfig.size_max) or None,
            max_segments=self._of(BlkFeature.SEG_MAX, BlkConfig.seg_max) or None,
            geometry=self._geometry(),
            physical_block_size=self._physical_block(),
            alignment_offset=self._blocks(BlkConfig.alignment_offset),
            min_io=self._blocks(BlkConfig.min_io_size) or None,
            opt_io=self._blocks(BlkConfig.opt_io_size) or None,
            discard=self._range(
                BlkFeature.DISCARD,
                BlkConfig.max_discard_sectors,
                BlkConfig.max_discard_seg,
                BlkConfig.discard_sector_alignment,
            ),
            write_zeroes=self._range(
                BlkFeature.WRITE_ZEROES, BlkConfig.max_write_zeroes_sectors, BlkConfig.max_write_zeroes_seg
            ),
            write_zeroes_may_unmap=may_unmap,
            secure_erase=self._range(
                BlkFeature.SECURE_ERASE,
                BlkConfig.max_secure_erase_sectors,
                BlkConfig.max_secure_erase_seg,
                BlkConfig.secure_erase_sector_alignment,
            ),
            zones=self.zones(),
        )

    def zones(self) -> ZoneLimits | None:
        """None for a device that is not zoned, also for one that says so itself (VIRTIO 1.4, 5.2.4)."""
        if not self._has(BlkFeature.ZONED):
            return None
        model = self._model()
        if model is ZonedModel.NONE:
            return None
        size, granularity = self._sectors(BlkConfig.zone_sectors), self._read(BlkConfig.write_granularity)
        if not size or size % self._block:
            raise DeviceError(f"zones of {size} bytes are not whole blocks of {self._block}", section="5.2.5.2")
        if not granularity or granularity % SECTOR_SIZE:
            raise DeviceError(f"a write granularity of {granularity} bytes is not whole sectors", section="5.2.5.2")
        return ZoneLimits(
            model,
            size,
            self._read(BlkConfig.max_open_zones),
            self._read(BlkConfig.max_active_zones),
            self._sectors(BlkConfig.max_append_sectors),
            granularity,
        )

    def _model(self) -> ZonedModel:
        number = self._read(BlkConfig.zoned_model)
        try:
            return ZonedModel(number)
        except ValueError:
            raise DeviceError(f"there is no zoned model {number}", section="5.2.4") from None

    def _range(
        self, feature: BlkFeature, sectors: ReadOnly, segments: ReadOnly, alignment: ReadOnly | None = None
    ) -> RangeLimits | None:
        """A limit of 0 says nothing of sectors, and is taken for one segment: no request has fewer."""
        if not self._has(feature):
            return None
        most = self._sectors(sectors) // self._block * self._block
        aligned = 0 if alignment is None else self._sectors(alignment)
        if 0 < self._sectors(sectors) < self._block:
            raise DeviceError(
                f"a range of at most {self._sectors(sectors)} bytes is less than a block of {self._block}",
                section="5.2.5",
            )
        return RangeLimits(most or None, self._read(segments) or 1, aligned or self._block)

    def _geometry(self) -> Geometry | None:
        if not self._has(BlkFeature.GEOMETRY):
            return None
        return Geometry(*(self._read(field) for field in (BlkConfig.cylinders, BlkConfig.heads, BlkConfig.sectors)))

    def _physical_block(self) -> int | None:
        exponent = self._of(BlkFeature.TOPOLOGY, BlkConfig.physical_block_exp)
        return None if exponent is None else self._block << exponent

    def _blocks(self, field: ReadOnly) -> int | None:
        count = self._of(BlkFeature.TOPOLOGY, field)
        return None if count is None else count * self._block

    def _sectors(self, field: ReadOnly) -> int:
        return self._read(field) * SECTOR_SIZE

    def _of(self, feature: BlkFeature, field: ReadOnly) -> int | None:
        return self._read(field) if self._has(feature) else None

    def _has(self, feature: BlkFeature) -> bool:
        return bool(self._negotiated & feature)
