"""Listens to a split ring from outside: reads what both sides have put into its memory, and writes nothing.

It works under whatever drives the queue, the batch loops in Cython included, since the ring is all that it looks at.
What is there was written by a device too, so it is read with care: an index that jumped is reported, not followed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

from hwloop.errors import DmaError

Part = tuple[int, int]
"""Device address and length in bytes."""

_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_DESCRIPTOR = 16


@dataclass(frozen=True)
class Chain:
    """One buffer that the driver made available."""

    head: int
    readable: tuple[Part, ...]
    writable: tuple[Part, ...]


class RingLost(Exception):
    """The ring cannot be followed any more; the text says why."""


class SplitTap:
    """A split ring of `size` descriptors at three device addresses, which `find` turns into ours.

    Raises DmaError where that is not possible.
    """

    def __init__(self, size: int, desc: int, avail: int, used: int, find: Callable[[int], int]) -> None:
        self._size = size
        self._find = find
        self._desc, self._avail, self._used = find(desc), find(avail), find(used)
        self._next_avail = self._u16(self._avail + 2)
        self._next_used = self._u16(self._used + 2)
        self.unread = 0
        """Used elements that were seen, and that the driver has not taken yet."""

    def new_chains(self) -> list[Chain]:
        """What was made available since the last time. Raises RingLost."""
        behind = self._u16(self._avail + 2) - self._next_avail & 0xFFFF
        if behind > self._size:
            raise RingLost(f"the available index jumped by {behind}")
        chains = []
        for _ in range(behind):
            head = self._u16(self._avail + 4 + 2 * (self._next_avail % self._size))
            chains.append(self._chain(head))
            self._next_avail = self._next_avail + 1 & 0xFFFF
        return chains

    def new_used(self) -> list[tuple[int, int]]:
        """(head, bytes written) of what the device has used since the last time. Raises RingLost."""
        behind = self._u16(self._used + 2) - self._next_used & 0xFFFF
        if behind > self._size:
            raise RingLost(f"the used index jumped by {behind}")
        used = []
        for _ in range(behind):
            at = self._used + 4 + 8 * (self._next_used % self._size)
            used.append((self._u32(at), self._u32(at + 4)))
            self._next_used = self._next_used + 1 & 0xFFFF
        self.unread += behind
        return used

    def _chain(self, head: int) -> Chain:
        table, count, index = self._desc, self._size, head
        readable: list[Part] = []
        writable: list[Part] = []
        for _ in range(self._size + 1):
            if index >= count:
                raise RingLost(f"descriptor {index} is none of {count}")
            at = table + _DESCRIPTOR * index
            address, length = self._u64(at), self._u32(at + 8)
            flags, following = self._u16(at + 12), self._u16(at + 14)
            if flags & _INDIRECT:
                try:
                    table, count, index = self._find(address), length // _DESCRIPTOR, 0
                except DmaError:
                    raise RingLost(f"an indirect table is at {address:#x}, which is not ours") from None
                continue
            (writable if flags & _WRITE else readable).append((address, length))
            if not flags & _NEXT:
                return Chain(head, tuple(readable), tuple(writable))
            index = following
        raise RingLost(f"the chain at descriptor {head} has no end")

    # Whatever is read here was stored by this process or by the device before it moved an index that was seen.
    @staticmethod
    def _u16(address: int) -> int:
        return ctypes.c_uint16.from_address(address).value

    @staticmethod
    def _u32(address: int) -> int:
        return ctypes.c_uint32.from_address(address).value

    @staticmethod
    def _u64(address: int) -> int:
        return ctypes.c_uint64.from_address(address).value
