"""Both sides of one ring in one process, over memory with guard bytes: what tests and measurements start from."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

from cython_ring.device_side import DeviceSideSplit
from cython_ring.layout import split_layout
from cython_ring.split import SplitRing

_GUARD = 256
_GUARD_BYTE = 0xA5


class Loopback:
    """A `driver` (SplitRing) and a `device` (DeviceSideSplit) that share three areas of anonymous memory.

    Each area lies between `_GUARD` bytes that nobody may write; `guards_intact()` looks. The keyword arguments are
    those of the two classes, RingUsageError too. The memory lives as long as this, its views and its two sides.
    """

    def __init__(
        self,
        size: int,
        *,
        event_idx: bool = False,
        platform_order: bool = False,
        clamp_used_length: bool = False,
        translate: Callable[[int, int, bool], int] | None = None,
        first_index: int = 0,
    ) -> None:
        self._areas = _place(size)
        end, length = self._areas["used"]
        self.memory = mmap.mmap(-1, end + length + _GUARD)
        self._paint()
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        addresses = [base + offset for offset, _ in self._areas.values()]
        self.driver = SplitRing(
            size,
            *addresses,
            owner=self.memory,
            event_idx=event_idx,
            platform_order=platform_order,
            clamp_used_length=clamp_used_length,
            first_index=first_index,
        )
        self.device = DeviceSideSplit(
            size, *addresses, translate=translate, event_idx=event_idx, owner=self.memory, first_index=first_index
        )

    def view(self, area: str) -> memoryview:
        """The bytes of "desc", "avail" or "used"; cast it, and each access is of the item's width."""
        offset, length = self._areas[area]
        return memoryview(self.memory)[offset : offset + length]

    def guards_intact(self) -> bool:
        """Whether every byte outside the three areas is as it was."""
        return all(set(gap) <= {_GUARD_BYTE} for gap in self._gaps())

    def _gaps(self) -> list[bytes]:
        edges = [0, *(edge for offset, length in self._areas.values() for edge in (offset, offset + length))]
        edges.append(len(self.memory))
        return [self.memory[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]

    def _paint(self) -> None:
        self.memory[:] = bytes([_GUARD_BYTE]) * len(self.memory)
        for area in self._areas:
            view = self.view(area)
            view[:] = bytes(len(view))


def _place(size: int) -> dict[str, tuple[int, int]]:
    """Offset and length of each area, with guard bytes before it; unlike split_layout() it leaves no byte unguarded."""
    layout = split_layout(size)
    areas = {}
    end = 0
    for area, length in (("desc", layout.desc_bytes), ("avail", layout.avail_bytes), ("used", layout.used_bytes)):
        offset = -(-end // _GUARD) * _GUARD + _GUARD
        areas[area] = (offset, length)
        end = offset + length
    return areas
