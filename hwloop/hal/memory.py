"""Memory of our own that can be pinned for a device."""

from __future__ import annotations

import ctypes
import mmap
import os

from hwloop.owner import Owner

HUGE_PAGE = 2 << 20
"""Bytes of a huge page as Linux gives them by default on x86-64 and on arm64 with 4 KiB pages."""

# Python 3.11 does not name it; asm-generic/mman.h.
_MAP_HUGETLB = 0x40000


class _Mapped(Owner):
    """A mapping of ours at an address that does not change; a child process does not inherit it."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._map = mapping
        self.size = len(mapping)
        mapping.madvise(mmap.MADV_DONTFORK)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(mapping)
        self.address = ctypes.addressof(self._anchor)

    def close(self) -> None:
        """Unmap. Idempotent; nothing may use the address afterwards."""
        self._anchor = None
        self._map.close()


class AnonymousMemory(_Mapped):
    """Zeroed memory shared with nobody and backed by no file, so nothing is left over however we die.

    Huge pages where some are free, else ordinary ones; `huge` tells. A child process does not inherit it.
    `address` and `size` (bytes, a multiple of the page size) never change.
    """

    def __init__(self, size: int) -> None:
        self.huge, mapping = _map_anonymous(size)
        super().__init__(mapping)


def _map_anonymous(size: int) -> tuple[bool, mmap.mmap]:
    huge_size = (size + HUGE_PAGE - 1) & -HUGE_PAGE
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    try:
        return True, mmap.mmap(-1, huge_size, flags=flags | _MAP_HUGETLB)
    except OSError:
        return False, mmap.mmap(-1, size, flags=flags)


class FileMemory(_Mapped):
    """Zeroed memory of a file without a name, for a device that may be a process and is given the file.

    A child process does not inherit it. `address` and `size` (bytes, whole pages) never change. The pages live on
    after `close` as long as anybody else has mapped them.
    """

    def __init__(self, size: int) -> None:
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        fd = os.memfd_create("hwloop-dma", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            mapping = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        super().__init__(mapping)
