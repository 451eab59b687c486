"""Memory of ours that a back end maps too."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os

from hwloop.errors import DmaError
from hwloop.hal.arena import Arena
from hwloop.owner import Owner
from hwloop.spec import PAGE_SIZE
from hwloop.vhost.messages import Region

_GUEST_BASE = 1 << 32
_STRIDE = 1 << 36
_USER_OFFSET = 1 << 46
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def user_address(guest: int) -> int:
    """The user address of a guest address. Both are labels: nothing of ours is at either of them."""
    return guest + _USER_OFFSET


class SharedRegion(Owner):
    """`size` bytes (made whole pages) of a file without a name, mapped here and described by `region` for the back end.

    The file is sealed: the back end, which gets `fd`, cannot make it shorter under our feet. Pages take up memory once
    they are written. `number` decides about its addresses: between two regions nothing is. Raises DmaError.
    """

    def __init__(self, number: int, size: int) -> None:
        size = -(-size // PAGE_SIZE) * PAGE_SIZE
        self.fd = os.memfd_create("hwloop vhost-user", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self._map = mmap.mmap(self.fd, size)
        except (OSError, OverflowError) as error:
            os.close(self.fd)
            raise DmaError(f"cannot map {size} bytes to share with the back end: {error}") from error
        # A child would write what is the parent's.
        self._map.madvise(mmap.MADV_DONTFORK)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        address, guest = ctypes.addressof(self._anchor), _GUEST_BASE + number * _STRIDE
        self.region = Region(guest, size, user_address(guest))
        self.free = Arena(address, guest, size)

    def allocate(self, size: int) -> Arena | None:
        """An arena of so many bytes, whole pages, zeroed; None when there is no room for it."""
        offset = self.free.allocate(size)
        return None if offset is None else Arena(self.free.vaddr + offset, self.free.iova + offset, size, self)

    def release(self, arena: Arena) -> None:
        """Give back what `allocate` gave. Raises DmaError for anything else."""
        self.free.release(arena.iova - self.free.iova)

    def close(self) -> None:
        """Unmap, and close the file. Idempotent; its pages live on as long as the back end maps them."""
        if self.fd < 0:
            return
        self._anchor = None
        self._map.close()
        os.close(self.fd)
        self.fd = -1
