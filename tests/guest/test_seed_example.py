"""The example of seed 000, step by step, on a real device."""

from __future__ import annotations

import hwloop
from hwloop import DeviceType

DISK_SIZE = 0x1000_0000
BLOCK_SIZE = 0x200


def test_the_example_of_seed_000_works_as_printed() -> None:
    with hwloop.open("0000:00:05.0") as disk:
        assert isinstance(disk, hwloop.VirtIoBlkDev)
        assert disk.device_type() == DeviceType.Block
        assert disk.device_name() == "virtio-blk"
        assert disk.block_size() == BLOCK_SIZE
        assert disk.num_blocks() == DISK_SIZE // BLOCK_SIZE

        block_id = 1
        buf = bytearray(BLOCK_SIZE)
        disk.read_block(block_id, buf)

        buf[0:4] = b"0123"
        disk.write_block(block_id, buf)
        disk.flush()

        buf = bytearray(BLOCK_SIZE)
        disk.read_block(block_id, buf)
        assert buf[0:4] == b"0123"
