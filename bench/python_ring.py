"""The same split ring in plain Python, as a measure: memoryview casts, no validation."""

from __future__ import annotations

from collections import deque

from cython_ring import Loopback

_NEXT, _WRITE = 1, 2


class PythonRing:
    """Drives the device side of a `Loopback` with single stores through `memoryview.cast`."""

    def __init__(self, loop: Loopback, size: int) -> None:
        self._size = size
        self._desc64 = loop.view("desc").cast("Q")
        self._desc32 = loop.view("desc").cast("I")
        self._desc16 = loop.view("desc").cast("H")
        self._avail = loop.view("avail").cast("H")
        self._used16 = loop.view("used")[: 4 + 8 * size].cast("H")
        self._used32 = loop.view("used")[: 4 + 8 * size].cast("I")
        self._free = deque(range(size))
        self._chains: dict[int, list[int]] = {}
        self._added = self._seen = 0

    def add(self, readable: list[tuple[int, int]], writable: list[tuple[int, int]]) -> None:
        parts = [(address, length, 0) for address, length in readable]
        parts += [(address, length, _WRITE) for address, length in writable]
        ids = [self._free.popleft() for _ in parts]
        for position, (index, (address, length, flags)) in enumerate(zip(ids, parts, strict=True)):
            last = position == len(parts) - 1
            self._desc64[2 * index] = address
            self._desc32[4 * index + 2] = length
            self._desc16[8 * index + 6] = flags if last else flags | _NEXT
            self._desc16[8 * index + 7] = 0 if last else ids[position + 1]
        self._avail[2 + self._added % self._size] = ids[0]
        self._chains[ids[0]] = ids
        self._added += 1

    def publish(self) -> None:
        self._avail[1] = self._added & 0xFFFF

    def pop(self) -> int | None:
        if self._used16[1] == self._seen & 0xFFFF:
            return None
        head = self._used32[1 + 2 * (self._seen % self._size)]
        self._seen += 1
        self._free.extend(self._chains.pop(head))
        return head
