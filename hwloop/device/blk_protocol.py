"""The block protocol: requests, statuses and configuration of a block device (VIRTIO 1.4, 5.2). Tables only."""

from __future__ import annotations

import errno
from enum import IntEnum

from hwloop.config import ConfigStruct, ReadOnly, ReadWrite
from hwloop.errors import DeviceError
from hwloop.spec import SECTOR_SIZE, BlkFeature

HEADER_BYTES = 16
"""Type, reserved, sector: the device-readable start of every request."""

DEVICE_ID_BYTES = 20
"""The buffer of GET_ID (VIRTIO 1.4, 5.2.6.1)."""

LARGEST_BLOCK = 64 << 10
STATUS_NOT_WRITTEN = 0xFF
"""What the status byte holds before the device writes it; no request ends with it."""


class RequestType(IntEnum):
    """VIRTIO 1.4, 5.2.6."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    GET_LIFETIME = 10
    DISCARD = 11
    WRITE_ZEROES = 13
    SECURE_ERASE = 14
    ZONE_APPEND = 15
    ZONE_REPORT = 16
    ZONE_OPEN = 18
    ZONE_CLOSE = 20
    ZONE_FINISH = 22
    ZONE_RESET = 24
    ZONE_RESET_ALL = 26


class LegacyRequestType(IntEnum):
    """What only legacy drivers send; none of ours does (VIRTIO 1.4, 5.2.6.3)."""

    SCSI_CMD = 2
    SCSI_CMD_OUT = 3
    FLUSH_OUT = 5


LEGACY_BARRIER = 0x8000_0000
"""The bit of a legacy request's type that orders it (VIRTIO 1.4, 5.2.6.3)."""

REQUEST_FEATURES = {
    RequestType.FLUSH: BlkFeature.FLUSH,
    RequestType.GET_LIFETIME: BlkFeature.LIFETIME,
    RequestType.DISCARD: BlkFeature.DISCARD,
    RequestType.WRITE_ZEROES: BlkFeature.WRITE_ZEROES,
    RequestType.SECURE_ERASE: BlkFeature.SECURE_ERASE,
    RequestType.ZONE_APPEND: BlkFeature.ZONED,
    RequestType.ZONE_REPORT: BlkFeature.ZONED,
    RequestType.ZONE_OPEN: BlkFeature.ZONED,
    RequestType.ZONE_CLOSE: BlkFeature.ZONED,
    RequestType.ZONE_FINISH: BlkFeature.ZONED,
    RequestType.ZONE_RESET: BlkFeature.ZONED,
    RequestType.ZONE_RESET_ALL: BlkFeature.ZONED,
}
"""What must be negotiated before a request of a type is sent; the types that are missing need nothing."""

CHANGES_DATA = frozenset(
    {
        RequestType.OUT,
        RequestType.DISCARD,
        RequestType.WRITE_ZEROES,
        RequestType.SECURE_ERASE,
        RequestType.ZONE_APPEND,
        RequestType.ZONE_OPEN,
        RequestType.ZONE_CLOSE,
        RequestType.ZONE_FINISH,
        RequestType.ZONE_RESET,
        RequestType.ZONE_RESET_ALL,
    }
)
"""What a read-only disk is never asked to do."""


class RespStatus(IntEnum):
    """VIRTIO 1.4, 5.2.6; those that begin with ZONE come from zoned devices only."""

    OK = 0
    IO_ERR = 1
    UNSUPPORTED = 2
    ZONE_INVALID_CMD = 3
    ZONE_UNALIGNED_WP = 4
    ZONE_OPEN_RESOURCE = 5
    ZONE_ACTIVE_RESOURCE = 6


STATUS_ERRORS = {
    RespStatus.IO_ERR: (errno.EIO, "the device reports an I/O error"),
    RespStatus.UNSUPPORTED: (errno.EOPNOTSUPP, "the device does not support this request"),
    RespStatus.ZONE_INVALID_CMD: (errno.EIO, "the zone cannot do this in the state it is in (ZONE_INVALID_CMD)"),
    RespStatus.ZONE_UNALIGNED_WP: (errno.EIO, "the write is not at the write pointer of its zone (ZONE_UNALIGNED_WP)"),
    RespStatus.ZONE_OPEN_RESOURCE: (errno.ETOOMANYREFS, "too many zones are open (ZONE_OPEN_RESOURCE)"),
    RespStatus.ZONE_ACTIVE_RESOURCE: (errno.EOVERFLOW, "too many zones are active (ZONE_ACTIVE_RESOURCE)"),
}
"""What a status other than OK means: Linux's errno for it, and a sentence."""


def status_meaning(status: int) -> tuple[int, str]:
    """The errno and the sentence of a status byte that is not OK, whatever its value."""
    if status in STATUS_ERRORS:
        return STATUS_ERRORS[RespStatus(status)]
    if status == STATUS_NOT_WRITTEN:
        return errno.EIO, "the device did not write the status of the request"
    return errno.EIO, f"the device wrote the undefined status {status:#x}"


def request_name(number: int) -> str:
    """The name of a request's type as it stands in the header, legacy ones included: `OUT | BARRIER`, `type 0x63`."""
    barrier = " | BARRIER" if number & LEGACY_BARRIER else ""
    for kinds in (RequestType, LegacyRequestType):
        for kind in kinds:
            if kind == number & ~LEGACY_BARRIER:
                return f"{kind.name}{barrier}"
    return f"type {number:#x}"


class BlkConfig(ConfigStruct):
    """struct virtio_blk_config (VIRTIO 1.4, 5.2.4)."""

    capacity = ReadOnly(0, 8)
    size_max = ReadOnly(8, 4)
    seg_max = ReadOnly(12, 4)
    cylinders = ReadOnly(16, 2)
    heads = ReadOnly(18, 1)
    sectors = ReadOnly(19, 1)
    blk_size = ReadOnly(20, 4)
    physical_block_exp = ReadOnly(24, 1)
    alignment_offset = ReadOnly(25, 1)
    min_io_size = ReadOnly(26, 2)
    opt_io_size = ReadOnly(28, 4)
    writeback = ReadWrite(32, 1)
    num_queues = ReadOnly(34, 2)
    max_discard_sectors = ReadOnly(36, 4)
    max_discard_seg = ReadOnly(40, 4)
    discard_sector_alignment = ReadOnly(44, 4)
    max_write_zeroes_sectors = ReadOnly(48, 4)
    max_write_zeroes_seg = ReadOnly(52, 4)
    write_zeroes_may_unmap = ReadOnly(56, 1)
    max_secure_erase_sectors = ReadOnly(60, 4)
    max_secure_erase_seg = ReadOnly(64, 4)
    secure_erase_sector_alignment = ReadOnly(68, 4)
    zone_sectors = ReadOnly(72, 4)
    max_open_zones = ReadOnly(76, 4)
    max_active_zones = ReadOnly(80, 4)
    max_append_sectors = ReadOnly(84, 4)
    write_granularity = ReadOnly(88, 4)
    zoned_model = ReadOnly(92, 1)


FIELD_FEATURES: dict[BlkFeature, tuple[ReadOnly, ...]] = {
    BlkFeature(0): (BlkConfig.capacity,),
    BlkFeature.SIZE_MAX: (BlkConfig.size_max,),
    BlkFeature.SEG_MAX: (BlkConfig.seg_max,),
    BlkFeature.GEOMETRY: (BlkConfig.cylinders, BlkConfig.heads, BlkConfig.sectors),
    BlkFeature.BLK_SIZE: (BlkConfig.blk_size,),
    BlkFeature.TOPOLOGY: (
        BlkConfig.physical_block_exp,
        BlkConfig.alignment_offset,
        BlkConfig.min_io_size,
        BlkConfig.opt_io_size,
    ),
    BlkFeature.CONFIG_WCE: (BlkConfig.writeback,),
    BlkFeature.MQ: (BlkConfig.num_queues,),
    BlkFeature.DISCARD: (
        BlkConfig.max_discard_sectors,
        BlkConfig.max_discard_seg,
        BlkConfig.discard_sector_alignment,
    ),
    BlkFeature.WRITE_ZEROES: (
        BlkConfig.max_write_zeroes_sectors,
        BlkConfig.max_write_zeroes_seg,
        BlkConfig.write_zeroes_may_unmap,
    ),
    BlkFeature.SECURE_ERASE: (
        BlkConfig.max_secure_erase_sectors,
        BlkConfig.max_secure_erase_seg,
        BlkConfig.secure_erase_sector_alignment,
    ),
    BlkFeature.ZONED: (
        BlkConfig.zone_sectors,
        BlkConfig.max_open_zones,
        BlkConfig.max_active_zones,
        BlkConfig.max_append_sectors,
        BlkConfig.write_granularity,
        BlkConfig.zoned_model,
    ),
}
"""Which configuration fields exist with which feature; capacity always does."""


def checked_block_size(size: int) -> int:
    """The block size that a device claims, if it can be one. Raises DeviceError."""
    if not SECTOR_SIZE <= size <= LARGEST_BLOCK or size & (size - 1):
        raise DeviceError(
            f"the device says that its blocks have {size} bytes, which is no power of two from {SECTOR_SIZE} "
            f"to {LARGEST_BLOCK}",
            section="5.2.4",
        )
    return size
