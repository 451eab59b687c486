"""The memory of a machine that runs in QEMU, mapped here as well."""

from __future__ import annotations

import ctypes
import mmap
import os

from hwloop.errors import DmaError
from hwloop.forked import disown_in_children, keep_no_longer
from hwloop.hal.arena import Arena
from hwloop.owner import Owner

RESERVED = 2 << 20
"""Bytes at the start that are left alone: there are the BIOS, its data and holes on a PC, and the device tree that
QEMU makes on ARM."""

# Python has no way to say where a mapping is to be; asm-generic/mman-common.h.
_MAP_FIXED = 0x10
_libc_mmap = ctypes.CDLL(None).mmap
_libc_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc_mmap.restype = ctypes.c_void_p


class GuestRam(Owner):
    """`size` bytes of memory that the machine has from guest-physical address `base` on.

    Without `fd` it is a new file that has no name: nothing is left of it, however we die. With it, it is that file from
    its start on, and the caller's to close. Raises DmaError when it cannot be mapped.
    """

    def __init__(self, base: int, size: int, fd: int | None = None) -> None:
        self.base = base
        self.size = size
        self._owned = fd is None
        self.fd = os.memfd_create("guest RAM") if fd is None else fd
        try:
            if self._owned:
                os.ftruncate(self.fd, size)
            self._map = mmap.mmap(self.fd, size)
        except OSError as error:
            self._close_file()
            raise DmaError.refused(f"cannot map {size >> 20} MiB of guest RAM", error, remedy="give it less") from error
        # A child would write what is the parent's.
        self._map.madvise(mmap.MADV_DONTFORK)
        disown_in_children(self)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        self._free = Arena(self.address + RESERVED, base + RESERVED, size - RESERVED)

    def allocate(self, size: int) -> Arena:
        """Whole pages of it, zeroed, until `release`. Raises DmaError when there are no more in one piece."""
        offset = self._free.allocate(size)
        if offset is None:
            raise DmaError(
                f"no {size >> 10} KiB of the {self.size >> 20} MiB of guest RAM are free in one piece",
                remedy="use fewer or smaller requests at once",
            )
        ctypes.memset(self._free.vaddr + offset, 0, size)
        return Arena(self._free.vaddr + offset, self._free.iova + offset, size, self)

    def release(self, arena: Arena) -> None:
        """Give back what `allocate` gave. Raises DmaError for anything else."""
        self._free.release(arena.iova - self._free.iova)

    def disown(self) -> None:
        """In a child: let memory that nobody shares take its place, so that a driver there does no harm and no more."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        _libc_mmap(self.address, self.size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)

    def close(self) -> None:
        """Unmap. Idempotent; nothing may use the addresses afterwards."""
        keep_no_longer(self)
        self._anchor = None
        self._map.close()
        self._close_file()

    def _close_file(self) -> None:
        if self._owned and self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
