"""Both sides of one ring in one process, over memory with guard bytes: what tests and measurements start from."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from functools import partial

from cython_ring.device_packed import DeviceSidePacked
from cython_ring.device_side import DeviceSideSplit
from cython_ring.layout import (
    DESCRIPTOR_BYTES,
    SLOT_BYTES,
    TAIL_BYTES,
    IndirectTables,
    SlotMemory,
    packed_layout,
    split_layout,
)
from cython_ring.packed import PackedRing
from cython_ring.split import SplitRing

_GUARD = 256
_GUARD_BYTE = 0xA5


class _Guarded:
    """Areas of anonymous memory, each between `_GUARD` bytes that nobody may write."""

    def __init__(self, lengths: dict[str, int]) -> None:
        self._areas = _place(lengths)
        end, length = list(self._areas.values())[-1]
        self.memory = mmap.mmap(-1, end + length + _GUARD)
        self._paint()
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def view(self, area: str) -> memoryview:
        """The bytes of an area; cast it, and each access is of the item's width."""
        offset, length = self._areas[area]
        return memoryview(self.memory)[offset : offset + length]

    def guards_intact(self) -> bool:
        """Whether every byte outside the areas is as it was."""
        return all(set(gap) <= {_GUARD_BYTE} for gap in self._gaps())

    def _address(self, area: str) -> int:
        return self._base + self._areas[area][0]

    def _tables(self, parts: int) -> IndirectTables | None:
        """The device's addresses of them are ours."""
        return IndirectTables(self._address("tables"), self._address("tables"), parts) if parts else None

    def slot_memory(self) -> SlotMemory:
        """The "slots" and "tails" for an engine; the device's addresses of them are ours."""
        slots, tails = self._address("slots"), self._address("tails")
        return SlotMemory(slots, slots, tails, tails)

    def _gaps(self) -> list[bytes]:
        edges = [0, *(edge for offset, length in self._areas.values() for edge in (offset, offset + length))]
        edges.append(len(self.memory))
        return [self.memory[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]

    def _paint(self) -> None:
        self.memory[:] = bytes([_GUARD_BYTE]) * len(self.memory)
        for area in self._areas:
            view = self.view(area)
            view[:] = bytes(len(view))


class Loopback(_Guarded):
    """A `driver` (SplitRing) and a `device` (DeviceSideSplit) that share "desc", "avail" and "used".

    Each area lies between bytes that nobody may write; `guards_intact()` looks. With `table_parts` there are "tables"
    too, for so many parts each; with `slots`, "slots" and "tails" for an engine. The other keyword arguments are those
    of the two classes, RingUsageError too. The memory lives as long as this, its views and its two sides.
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
        in_order: bool = False,
        table_parts: int = 0,
        slots: bool = False,
    ) -> None:
        layout = split_layout(size)
        areas = {"desc": layout.desc_bytes, "avail": layout.avail_bytes, "used": layout.used_bytes}
        super().__init__(areas | _table_area(size, table_parts) | _slot_areas(size, slots))
        addresses = self._address("desc"), self._address("avail"), self._address("used")
        self.driver = SplitRing(
            size,
            *addresses,
            owner=self.memory,
            event_idx=event_idx,
            platform_order=platform_order,
            clamp_used_length=clamp_used_length,
            first_index=first_index,
            in_order=in_order,
            tables=self._tables(table_parts),
        )
        self._make_device = partial(
            DeviceSideSplit,
            size,
            *addresses,
            translate=translate,
            event_idx=event_idx,
            owner=self.memory,
            indirect=bool(table_parts) or slots,
            in_order=in_order,
        )
        self.device = self._make_device(first_index=first_index)

    def renew_device(self) -> None:
        """A device that knows nothing and begins at 0, as after a reset of the queue."""
        self.device = self._make_device()


class PackedLoopback(_Guarded):
    """A `driver` (PackedRing) and a `device` (DeviceSidePacked) that share "desc", "driver" and "device".

    The rest is as with Loopback.
    """

    def __init__(
        self,
        size: int,
        *,
        event_idx: bool = False,
        platform_order: bool = False,
        clamp_used_length: bool = False,
        translate: Callable[[int, int, bool], int] | None = None,
        in_order: bool = False,
        table_parts: int = 0,
        slots: bool = False,
        quiet_flags: bool = False,
    ) -> None:
        layout = packed_layout(size)
        areas = {"desc": layout.desc_bytes, "driver": layout.driver_bytes, "device": layout.device_bytes}
        super().__init__(areas | _table_area(size, table_parts) | _slot_areas(size, slots))
        addresses = self._address("desc"), self._address("driver"), self._address("device")
        self.driver = PackedRing(
            size,
            *addresses,
            owner=self.memory,
            event_idx=event_idx,
            platform_order=platform_order,
            clamp_used_length=clamp_used_length,
            in_order=in_order,
            tables=self._tables(table_parts),
        )
        self._make_device = partial(
            DeviceSidePacked,
            size,
            *addresses,
            translate=translate,
            event_idx=event_idx,
            owner=self.memory,
            indirect=bool(table_parts) or slots,
            in_order=in_order,
            quiet_flags=quiet_flags,
        )
        self.renew_device()

    def renew_device(self) -> None:
        """A device that knows nothing, as after a reset of the queue."""
        self.device = self._make_device()


def _table_area(size: int, parts: int) -> dict[str, int]:
    return {"tables": size * parts * DESCRIPTOR_BYTES} if parts else {}


def _slot_areas(size: int, wanted: bool) -> dict[str, int]:
    return {"slots": size * SLOT_BYTES, "tails": size * TAIL_BYTES} if wanted else {}


def _place(lengths: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Offset and length of each area, with guard bytes before it; unlike the layouts it leaves no byte unguarded."""
    areas = {}
    end = 0
    for area, length in lengths.items():
        offset = -(-end // _GUARD) * _GUARD + _GUARD
        areas[area] = (offset, length)
        end = offset + length
    return areas
