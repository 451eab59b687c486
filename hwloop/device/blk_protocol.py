"""The block protocol: requests, statuses and configuration of a block device (VIRTIO 1.4, 5.2). Tables only."""

from __future__ import annotations

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


class RespStatus(IntEnum):
    """VIRTIO 1.4, 5.2.6."""

    OK = 0
    IO_ERR = 1
    UNSUPPORTED = 2


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
