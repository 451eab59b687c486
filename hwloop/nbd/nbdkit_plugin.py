"""A disk for nbdkit, whose python plugin takes this file as its script:

    nbdkit python hwloop/nbd/nbdkit_plugin.py target=qemu:disk.img

nbdkit then brings its filters and its TLS. `readonly=on` refuses writes. The interpreter that nbdkit was built with has
to find hwloop: PYTHONPATH.
"""

from __future__ import annotations

import errno
from typing import Any

import nbdkit  # type: ignore[import-not-found]

from hwloop import session
from hwloop.device.blk_ranges import BlkRanges
from hwloop.device.block import BlockDevice

API_VERSION = 2

_settings: dict[str, str] = {}
_disks: list[BlockDevice] = []
"""The one disk, for all connections."""


def config(key: str, value: str) -> None:
    if key not in ("target", "readonly"):
        raise RuntimeError(f"hwloop: there is no parameter {key!r}; give target=TARGET, readonly=on")
    _settings[key] = value


def config_complete() -> None:
    if "target" not in _settings:
        raise RuntimeError("hwloop: say which disk: target=TARGET")


def thread_model() -> Any:
    return nbdkit.THREAD_MODEL_PARALLEL


def after_fork() -> None:
    """Only now: what a disk holds would not be there in a process that was forked from its own."""
    disk = session.open(_settings["target"])
    if not isinstance(disk, BlockDevice):
        disk.close()
        raise RuntimeError(f"hwloop: {_settings['target']} is no disk")
    _disks.append(disk)


def cleanup() -> None:
    while _disks:
        _disks.pop().close()


def open(readonly: bool) -> BlockDevice:  # noqa: A001 (nbdkit calls it so)
    return _disks[0]


def get_size(disk: BlockDevice) -> int:
    return disk.size()


def block_size(disk: BlockDevice) -> tuple[int, int, int]:
    return 1, max(4096, disk.block_size()), 0xFFFFFFFF


def can_multi_conn(disk: BlockDevice) -> bool:
    return True


def can_write(disk: BlockDevice) -> bool:
    return not disk.readonly() and _settings.get("readonly") != "on"


def can_flush(disk: BlockDevice) -> bool:
    return True


def can_fua(disk: BlockDevice) -> Any:
    return nbdkit.FUA_NATIVE


def can_trim(disk: BlockDevice) -> bool:
    return isinstance(disk, BlkRanges) and disk.limits.discard is not None


def can_zero(disk: BlockDevice) -> bool:
    return isinstance(disk, BlkRanges) and disk.limits.write_zeroes is not None


def pread(disk: BlockDevice, buf: bytearray, offset: int, flags: int) -> None:
    disk.preadinto(buf, offset)


def pwrite(disk: BlockDevice, buf: bytes, offset: int, flags: int) -> None:
    disk.pwrite(buf, offset, fua=bool(flags & nbdkit.FLAG_FUA))


def flush(disk: BlockDevice, flags: int) -> None:
    disk.flush()


def trim(disk: BlkRanges, count: int, offset: int, flags: int) -> None:
    block = disk.block_size()
    start, end = -(-offset // block) * block, (offset + count) // block * block
    if start < end:
        disk.discard(start, end - start)
    if flags & nbdkit.FLAG_FUA:
        disk.flush()


def zero(disk: BlkRanges, count: int, offset: int, flags: int) -> None:
    if (offset | count) % disk.block_size():
        # nbdkit writes zeros then.
        nbdkit.set_error(errno.EOPNOTSUPP)
        raise RuntimeError("hwloop: no whole blocks")
    disk.write_zeroes(offset, count, unmap=bool(flags & nbdkit.FLAG_MAY_TRIM))
    if flags & nbdkit.FLAG_FUA:
        disk.flush()
