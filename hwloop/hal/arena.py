"""One stretch of memory that the device sees contiguously, handed out in pieces of whole pages."""

from __future__ import annotations

import ctypes
from bisect import insort

from hwloop.errors import DmaError
from hwloop.spec import PAGE_SIZE


class Arena:
    """Memory at `vaddr` (ours) and `iova` (the device's), `size` bytes; both are page aligned.

    First fit over a sorted list of free runs. All book-keeping is private memory: the device cannot change it. What
    we wrote never stays in free memory: `release` zeroes it.
    """

    def __init__(self, vaddr: int, iova: int, size: int, owner: object = None) -> None:
        self.vaddr = vaddr
        self.iova = iova
        self.size = size
        self.owner = owner
        self._free: list[tuple[int, int]] = [(0, size)]
        self._used: dict[int, int] = {}

    def allocate(self, size: int) -> int | None:
        """The offset of `size` free bytes (whole pages), or None when no run is long enough."""
        assert size > 0
        assert size % PAGE_SIZE == 0
        for index, (start, length) in enumerate(self._free):
            if length >= size:
                self._free[index : index + 1] = [(start + size, length - size)] if length > size else []
                self._used[start] = size
                return start
        return None

    def allocated(self, offset: int) -> int:
        """How many bytes were allocated at exactly this offset; 0 for none."""
        return self._used.get(offset, 0)

    def holds(self, offset: int, length: int) -> bool:
        """Whether so many bytes there are in one allocation."""
        size = self._used.get(offset)
        if size is None:  # it begins inside one, which is rare
            start = max((start for start in self._used if start < offset), default=0)
            size = self._used.get(start, 0) - (offset - start)
        return 0 < length <= size

    def release(self, offset: int) -> None:
        """Free an allocation; its bytes are zeroed, so that nothing of it shows in the next one. Raises DmaError."""
        size = self._used.pop(offset, 0)
        if not size:
            raise DmaError(f"nothing is allocated at device address {self.iova + offset:#x}")
        ctypes.memset(self.vaddr + offset, 0, size)
        insort(self._free, (offset, size))
        self._merge()

    def outstanding(self) -> list[tuple[int, int]]:
        """(device address, bytes) of every allocation that was not released."""
        return [(self.iova + offset, size) for offset, size in sorted(self._used.items())]

    def copy_in(self, offset: int, data: memoryview) -> None:
        """Copy a buffer to the start of an allocation."""
        self._bytes(offset, data.nbytes)[:] = data

    def copy_out(self, offset: int, into: memoryview) -> None:
        """Copy the start of an allocation into a writable buffer."""
        into[:] = self._bytes(offset, into.nbytes)

    def _bytes(self, offset: int, length: int) -> memoryview:
        return memoryview((ctypes.c_ubyte * length).from_address(self.vaddr + offset)).cast("B")

    def _merge(self) -> None:
        merged: list[tuple[int, int]] = []
        for start, length in self._free:
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((start, length))
        self._free = merged
