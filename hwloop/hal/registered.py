"""Memory that a caller has already, as something a device can be shown in place."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import TYPE_CHECKING

from cython_ring import address_of
from hwloop.errors import DmaError, InvalidParam
from hwloop.owner import Owner

if TYPE_CHECKING:
    from typing_extensions import Buffer

# linux/mman.h
_DONTFORK, _DOFORK = mmap.MADV_DONTFORK, mmap.MADV_DOFORK


class CallersMemory(Owner):
    """Whole pages of a caller's buffer, which stay where they are until `close`: they cannot be unmapped or resized.

    `address` and `size` in bytes; `read_only` says that we may not write them. Until it is closed a child process does
    not inherit them. Raises InvalidParam for what is not whole pages, DmaError when the kernel does not keep them from
    children.
    """

    def __init__(self, buffer: Buffer) -> None:
        try:
            self._view = memoryview(buffer).cast("B")
        except TypeError as error:
            raise InvalidParam(f"a device cannot be shown this memory: {error}") from None
        self.read_only, self.size = self._view.readonly, self._view.nbytes
        self.address = address_of(self._view)
        if not self.size or self.address % mmap.PAGESIZE or self.size % mmap.PAGESIZE:
            self._view.release()
            raise InvalidParam(
                f"{self.size} bytes at {self.address:#x} are not whole pages of {mmap.PAGESIZE} bytes: a device would "
                "reach what is beside them",
                remedy="give an mmap.mmap(-1, size), or use alloc()",
            )
        try:
            _advise(self.address, self.size, _DONTFORK)
        except BaseException:
            self._view.release()
            raise

    def close(self) -> None:
        """The caller may do with it what it likes. Idempotent."""
        if self.address:
            _advise(self.address, self.size, _DOFORK)
            self.address = 0
            self._view.release()


def _advise(address: int, size: int, advice: int) -> None:
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    if madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice):
        code = ctypes.get_errno()
        raise DmaError(
            f"cannot keep {size >> 10} KiB at {address:#x} from child processes: {os.strerror(code)}", errno=code
        )
