"""The same split ring in plain Python, as a measure: `struct`, three descriptors a request, no validation.

As ixy.py has it, but for the indices: those are single stores through `memoryview.cast`, since `struct` stores a zero
before the value, and a device on another processor sees it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from struct import Struct

_DESC, _USED = Struct("<QIHH"), Struct("<II")
_NEXT, _WRITE = 1, 2


class PythonRing:
    """The driver's side of a ring of `size` descriptors in three pieces of writable memory."""

    def __init__(self, desc: memoryview, avail: memoryview, used: memoryview, size: int) -> None:
        self._size = size
        self._desc, self._used = desc, used
        self._avail = avail.cast("H")
        self._used_index = used[:4].cast("H")
        self._free = deque(range(size))
        self._chains: dict[int, list[int]] = {}
        self._added = self._seen = 0

    def add(self, readable: Sequence[tuple[int, int]], writable: Sequence[tuple[int, int]]) -> int:
        """Put a request into the ring; returns its number. The device does not see it before `publish`."""
        parts = [(address, length, 0) for address, length in readable]
        parts += [(address, length, _WRITE) for address, length in writable]
        ids = [self._free.popleft() for _ in parts]
        for position, (index, (address, length, flags)) in enumerate(zip(ids, parts, strict=True)):
            last = position == len(parts) - 1
            entry = _DESC.pack(address, length, flags if last else flags | _NEXT, 0 if last else ids[position + 1])
            self._desc[16 * index : 16 * index + 16] = entry
        self._avail[2 + self._added % self._size] = ids[0]
        self._chains[ids[0]] = ids
        self._added += 1
        return ids[0]

    def publish(self) -> None:
        self._avail[1] = self._added & 0xFFFF

    def pop(self) -> int | None:
        """The number of a request that the device has used, or None."""
        if self._used_index[1] == self._seen & 0xFFFF:
            return None
        head, _ = _USED.unpack_from(self._used, 4 + 8 * (self._seen % self._size))
        self._seen += 1
        self._free.extend(self._chains.pop(head))
        return head
