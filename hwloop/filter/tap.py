"""Listens to a ring from outside: reads what both sides have put into it, and writes nothing.

It works under whatever drives the queue, the batch loops in Cython included. A device has
written what a ring holds, too, so it is read with care: an index that jumped is reported, not followed.

All that a split ring holds stays where it is until its buffer is taken. In a packed ring the device writes what it has
used over what the driver made available, maybe before we look; so that is asked of the driver's own record of it.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cython_ring import Ring
from hwloop.errors import DmaError

Part = tuple[int, int]
"""Device address and length in bytes."""
Descriptor = tuple[int, int, int]
"""The same, and flags."""

_NEXT, _WRITE, _INDIRECT, _AVAIL, _USED = 1, 2, 4, 1 << 7, 1 << 15
_DESCRIPTOR = 16


@dataclass(frozen=True)
class Chain:
    """One buffer that the driver made available."""

    head: int
    readable: tuple[Part, ...]
    writable: tuple[Part, ...]


class RingLost(Exception):
    """The ring cannot be followed any more; the text says why."""


class RingTap(ABC):
    """A ring that is listened to, and the buffers that the device has. With `in_order` a device may tell of one that it
    has used, and mean those before it too (VIRTIO 1.4, 2.7.9 and 2.8.8)."""

    def __init__(self, size: int, find: Callable[[int], int], in_order: bool) -> None:
        self._size = size
        self._find = find
        self._in_order = in_order
        self._with_device: dict[int, Chain] = {}
        self.unread = 0
        """Used buffers that were seen, and that the driver has not taken yet."""

    @abstractmethod
    def new_chains(self) -> list[Chain]:
        """What was made available since the last time. Raises RingLost."""

    @abstractmethod
    def new_used(self) -> list[tuple[int, int]]:
        """(head, bytes written) of what the device has used since the last time. Raises RingLost."""

    def _given(self, chain: Chain) -> Chain:
        self._with_device[chain.head] = chain
        return chain

    def _taken_back(self, head: int, written: int) -> Iterator[tuple[int, int]]:
        """The buffers that are used with this one: those that the device skipped it has written completely."""
        while self._in_order and head in self._with_device and (first := next(iter(self._with_device))) != head:
            yield first, sum(length for _, length in self._with_device.pop(first).writable)
        self._with_device.pop(head, None)
        yield head, written

    def _table(self, address: int) -> int:
        try:
            return self._find(address)
        except DmaError:
            raise RingLost(f"an indirect table is at {address:#x}, which is not ours") from None


class SplitTap(RingTap):
    """A split ring of `size` descriptors at three device addresses, which `find` turns into ours.

    Raises DmaError where that is not possible.
    """

    def __init__(
        self, size: int, desc: int, avail: int, used: int, find: Callable[[int], int], *, in_order: bool = False
    ) -> None:
        super().__init__(size, find, in_order)
        self._desc, self._avail, self._used = find(desc), find(avail), find(used)
        self._next_avail = _u16(self._avail + 2)
        self._next_used = _u16(self._used + 2)

    def new_chains(self) -> list[Chain]:
        behind = _u16(self._avail + 2) - self._next_avail & 0xFFFF
        if behind > self._size:
            raise RingLost(f"the available index jumped by {behind}")
        chains = []
        for _ in range(behind):
            head = _u16(self._avail + 4 + 2 * (self._next_avail % self._size))
            chains.append(self._given(self._chain(head)))
            self._next_avail = self._next_avail + 1 & 0xFFFF
        return chains

    def new_used(self) -> list[tuple[int, int]]:
        behind = _u16(self._used + 2) - self._next_used & 0xFFFF
        if behind > self._size:
            raise RingLost(f"the used index jumped by {behind}")
        used: list[tuple[int, int]] = []
        while len(used) < behind:
            at = self._used + 4 + 8 * ((self._next_used + len(used) & 0xFFFF) % self._size)
            used += self._taken_back(_u32(at), _u32(at + 4))
        if len(used) > behind:
            raise RingLost(f"the used index moved by {behind}, and buffer {used[-1][0]} ends {len(used)}")
        self._next_used = self._next_used + behind & 0xFFFF
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
            address, length = _u64(at), _u32(at + 8)
            flags, following = _u16(at + 12), _u16(at + 14)
            if flags & _INDIRECT:
                table, count, index = self._table(address), length // _DESCRIPTOR, 0
                continue
            (writable if flags & _WRITE else readable).append((address, length))
            if not flags & _NEXT:
                return Chain(head, tuple(readable), tuple(writable))
            index = following
        raise RingLost(f"the chain at descriptor {head} has no end")


class PackedTap(RingTap):
    """A packed ring of `size` descriptors at a device address, which `find` turns into ours; `ring` gives the driver's
    side of it, or None while there is none yet.

    Raises DmaError where the memory is not found.
    """

    def __init__(
        self, size: int, desc: int, find: Callable[[int], int], ring: Callable[[], Ring | None], *, in_order: bool
    ) -> None:
        super().__init__(size, find, in_order)
        self._desc = find(desc)
        self._ring = ring
        self._number = 0
        self._place, self._wrap = 0, True
        self._takes: dict[int, int] = {}

    def new_chains(self) -> list[Chain]:
        chains = []
        for number, head, parts in self._published():
            if number != self._number:
                raise RingLost(f"{number - self._number} requests came and went between two looks")
            self._number += 1
            self._takes[head] = len(parts)
            chains.append(self._given(self._chain(head, parts)))
        return chains

    def new_used(self) -> list[tuple[int, int]]:
        used: list[tuple[int, int]] = []
        while (at := self._used_place()) is not None:
            head = _u16(at + 12)
            if head not in self._with_device:
                if any(head == new for _, new, _ in self._published()):
                    break  # Made available since we looked for that, and used already.
                raise RingLost(f"buffer {head} is used, which the device has not")
            for one, written in self._taken_back(head, _u32(at + 8)):
                used.append((one, written))
                self._go_on(self._takes.pop(one))
        self.unread += len(used)
        return used

    def _used_place(self) -> int | None:
        """Where the next used descriptor is, if it is one: both bits are as the wrap counter then (2.8.1)."""
        at = self._desc + _DESCRIPTOR * self._place
        # The device stores the flags last: the rest is there when they are.
        return at if _u16(at + 14) & (_AVAIL | _USED) == (_AVAIL | _USED if self._wrap else 0) else None

    def _go_on(self, count: int) -> None:
        self._place += count
        if self._place >= self._size:
            self._place -= self._size
            self._wrap = not self._wrap

    def _published(self) -> list[tuple[int, int, list[Descriptor]]]:
        ring = self._ring()
        return [] if ring is None else ring.published_since(self._number)

    def _chain(self, head: int, parts: list[Descriptor]) -> Chain:
        if parts[0][2] & _INDIRECT:
            parts = self._in_table(*parts[0][:2])
        readable = tuple((address, length) for address, length, flags in parts if not flags & _WRITE)
        writable = tuple((address, length) for address, length, flags in parts if flags & _WRITE)
        return Chain(head, readable, writable)

    def _in_table(self, address: int, length: int) -> list[Descriptor]:
        """One after the other: NEXT means nothing in a table of this format (2.8.7)."""
        table = self._table(address)
        places = range(table, table + length // _DESCRIPTOR * _DESCRIPTOR, _DESCRIPTOR)
        return [(_u64(at), _u32(at + 8), _u16(at + 14)) for at in places]


# Whatever is read here was stored by this process, or by the device before it moved an index or a flag that was seen.
def _u16(address: int) -> int:
    return ctypes.c_uint16.from_address(address).value


def _u32(address: int) -> int:
    return ctypes.c_uint32.from_address(address).value


def _u64(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value
