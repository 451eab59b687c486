"""The log that QEMU's `blklogwrites` makes of what reaches an image, in the order in which it does.

The format is dm-log-writes' (Linux Documentation/admin-guide/device-mapper/log-writes.rst, drivers/md/dm-log-writes.c):
a superblock, then for each entry a header and its data, each from a sector of the log on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

MAGIC = 0x6A736677736872
VERSION = 1
SECTOR = 512
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
_SUPERBLOCK = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


@dataclass(frozen=True)
class Entry:
    """One thing that reached the image: `data` from `sector` (of 512 bytes) on; a flush may have none."""

    flags: int
    sector: int
    data: bytes

    @property
    def is_flush(self) -> bool:
        return bool(self.flags & FLUSH)


def read_log(path: Path) -> list[Entry]:
    """All entries that are there now, of a log with sectors of 512 bytes.

    QEMU writes the superblock once in a while, so it may be missing and its count is not used: the log ends where no
    entry is. Raises ValueError for what is no log.
    """
    log, size = path.read_bytes().ljust(SECTOR, b"\0"), SECTOR
    magic, version, _, claimed = _SUPERBLOCK.unpack_from(log)
    if (magic, version, claimed) not in ((MAGIC, VERSION, size), (0, 0, 0)):
        raise ValueError(f"{path} is no log of writes: magic {magic:#x}, version {version}, sectors of {claimed} bytes")
    entries, place = [], size
    while place + _ENTRY.size <= len(log):
        sector, count, flags, mark = _ENTRY.unpack_from(log, place)
        if not count and not flags:
            break
        # A mark is text, a discard has nothing.
        length = mark if flags & MARK else 0 if flags & DISCARD else count * size
        place += size
        entries.append(Entry(flags, sector, log[place : place + length]))
        place += -(-length // size) * size
    return entries
