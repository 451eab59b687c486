"""What a disk holds, by the marks that file systems, partition tables and volumes leave.

The places are those of util-linux's libblkid, where each kind says who documents it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwloop.device.block import BlockDevice
from hwloop.errors import RefusedError
from hwloop.spec import SECTOR_SIZE


@dataclass(frozen=True)
class Signature:
    """`mark` at `offset` (bytes; from the end of the disk if negative) says that there is `kind`."""

    kind: str
    offset: int
    mark: bytes


SIGNATURES = (
    Signature("an ext file system", 0x438, b"\x53\xef"),
    Signature("an XFS file system", 0, b"XFSB"),
    Signature("a Btrfs file system", 0x10040, b"_BHRfS_M"),
    Signature("an F2FS file system", 0x400, b"\x10\x20\xf5\xf2"),
    Signature("an NTFS file system", 3, b"NTFS    "),
    Signature("an exFAT file system", 3, b"EXFAT   "),
    Signature("a FAT file system", 0x36, b"FAT1"),
    Signature("a FAT file system", 0x52, b"FAT32   "),
    Signature("a SquashFS file system", 0, b"hsqs"),
    Signature("an ISO 9660 file system", 0x8001, b"CD001"),
    Signature("swap space", 4086, b"SWAPSPACE2"),
    Signature("a LUKS volume", 0, b"LUKS\xba\xbe"),
    Signature("an LVM physical volume", 0x218, b"LVM2 001"),
    Signature("a member of an md array", 0x1000, b"\xfc\x4e\x2b\xa9"),
    Signature("a member of a ZFS pool", 0x20000 + 0x400, b"\x0c\xb1\xba\x00"),
    Signature("a GPT partition table", 512, b"EFI PART"),
    Signature("a GPT partition table", 4096, b"EFI PART"),
    Signature("the backup of a GPT partition table", -512, b"EFI PART"),
)
_MBR_MARK, _MBR_ENTRIES, _MBR_ENTRY_BYTES = 510, 446, 16


def find_signatures(read: Callable[[int, int], bytes], size: int) -> list[str]:
    """The kinds that a disk of `size` bytes holds; `read(offset, length)` gives its bytes."""
    found = [one.kind for one in SIGNATURES if _matches(read, size, one)]
    if size >= SECTOR_SIZE and _has_partitions(read(0, SECTOR_SIZE)):
        found.append("an MBR partition table")
    return list(dict.fromkeys(found))


def refuse_data(disk: BlockDevice, name: str) -> None:
    """Raises RefusedError when the disk holds what somebody put there."""
    kinds = find_signatures(_Reader(disk).read, disk.size())
    if kinds:
        raise RefusedError(
            f"{name} holds {' and '.join(kinds)}; nothing was written",
            remedy="if nobody needs it: add --yes-destroy-data",
        )


def _matches(read: Callable[[int, int], bytes], size: int, signature: Signature) -> bool:
    start = signature.offset if signature.offset >= 0 else size + signature.offset
    end = start + len(signature.mark)
    return start >= 0 and end <= size and read(start, len(signature.mark)) == signature.mark


def _has_partitions(sector: bytes) -> bool:
    """The mark alone is also that of a boot sector; an entry has a type, and is active (0x80) or not (0)."""
    entries = [sector[at : at + _MBR_ENTRY_BYTES] for at in range(_MBR_ENTRIES, _MBR_MARK, _MBR_ENTRY_BYTES)]
    return sector[_MBR_MARK:] == b"\x55\xaa" and any(
        entry[4] and entry[0] in (0, 0x80) and any(entry[8:]) for entry in entries
    )


class _Reader:
    """Bytes of a disk, read by the chunk and only once."""

    def __init__(self, disk: BlockDevice) -> None:
        self._disk = disk
        self._step = max(4096, disk.block_size())
        self._chunks: dict[int, bytes] = {}

    def read(self, offset: int, length: int) -> bytes:
        first, last = offset // self._step, (offset + length - 1) // self._step
        data = b"".join(self._chunk(number) for number in range(first, last + 1))
        return data[offset - first * self._step :][:length]

    def _chunk(self, number: int) -> bytes:
        if number not in self._chunks:
            start = number * self._step
            size = min(self._step, self._disk.size() - start)
            self._chunks[number] = self._disk.read(start // SECTOR_SIZE, size)
        return self._chunks[number]
