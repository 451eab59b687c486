"""What a register region is, the checks every region makes, and a window onto part of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from operator import index
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from mmio.errors import MisalignedAccess, RegionBoundsError, RegionClosed, ValueRangeError


@runtime_checkable
class Region(Protocol):
    """A run of device registers. Offsets are in bytes from its start; values are unsigned and little-endian.

    Every `readN`/`writeN` is exactly one bus access of N bits; the `lo_hi` and `hi_lo` forms are two of 32 bits in the
    order of their name. Before anything is accessed they raise RegionClosed, RegionBoundsError, MisalignedAccess
    or ValueRangeError, and TypeError for what is not an integer.
    """

    @property
    def size(self) -> int:
        """Bytes in the region."""
        ...

    def read8(self, offset: int) -> int: ...
    def read16(self, offset: int) -> int: ...
    def read32(self, offset: int) -> int: ...
    def read64(self, offset: int) -> int: ...
    def read64_lo_hi(self, offset: int) -> int: ...
    def read64_hi_lo(self, offset: int) -> int: ...
    def write8(self, offset: int, value: int) -> None: ...
    def write16(self, offset: int, value: int) -> None: ...
    def write32(self, offset: int, value: int) -> None: ...
    def write64(self, offset: int, value: int) -> None: ...
    def write64_lo_hi(self, offset: int, value: int) -> None: ...
    def write64_hi_lo(self, offset: int, value: int) -> None: ...

    def close(self) -> None:
        """Give up the region; every later access raises RegionClosed. May be called again."""
        ...


def check_bounds(offset: int, length: int, size: int, what: str = "register access") -> None:
    """Raise RegionBoundsError unless `length` bytes at `offset` lie inside `size` bytes. Integers of any size."""
    if index(offset) < 0 or length < 0 or offset + length > size:
        raise RegionBoundsError(offset, length, size, what)


def check_window(start: int, size: int, end: int, what: str) -> None:
    """Raise RegionBoundsError unless `size` bytes from `start`, at least one, all lie below `end`."""
    check_bounds(start, size, end, what)
    if size == 0:
        raise RegionBoundsError(start, size, end, what)


def check_alignment(offset: int, alignment: int, base: int = 0) -> None:
    """Raise MisalignedAccess unless `base + offset`, which is what the bus sees, is a multiple of `alignment`."""
    if (base + offset) % alignment:
        raise MisalignedAccess(offset, alignment, base)


def check_access(offset: int, length: int, size: int, alignment: int, base: int = 0) -> None:
    """Bounds first, then alignment: the whole rule for one access."""
    check_bounds(offset, length, size)
    check_alignment(offset, alignment, base)


def check_value(value: int, width: int) -> int:
    """`value` as a plain int; raises ValueRangeError unless it is an unsigned number of `width` bytes."""
    value = index(value)
    if value < 0 or value >> 8 * width:
        raise ValueRangeError(value, width)
    return value


class RegionBase(ABC):
    """A Region made of two methods: `_read(offset, width)` and `_write(offset, width, value)`, one bus access each.

    Both are called with checked arguments; widths are 1, 2, 4 or 8 bytes. `base` is where the region starts on its
    bus, for alignment; None when whoever is behind `_read` and `_write` checks alignment again.
    """

    def __init__(self, size: int, base: int | None = 0) -> None:
        self._size = size
        self._base = base
        self._closed = False

    @abstractmethod
    def _read(self, offset: int, width: int) -> int:
        """One bus access; an unsigned value of `width` bytes."""

    @abstractmethod
    def _write(self, offset: int, width: int, value: int) -> None:
        """One bus access."""

    @property
    def size(self) -> int:
        """Bytes in the region."""
        return self._size

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Refuse every later access. What the region was built on stays open: its opener closes it."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def read8(self, offset: int) -> int:
        self._check(offset, 1, 1)
        return self._read(offset, 1)

    def read16(self, offset: int) -> int:
        self._check(offset, 2, 2)
        return self._read(offset, 2)

    def read32(self, offset: int) -> int:
        self._check(offset, 4, 4)
        return self._read(offset, 4)

    def read64(self, offset: int) -> int:
        """One access of 64 bits."""
        self._check(offset, 8, 8)
        return self._read(offset, 8)

    def read64_lo_hi(self, offset: int) -> int:
        """Two accesses of 32 bits: `offset`, then `offset + 4`."""
        self._check(offset, 8, 4)
        low = self._read(offset, 4)
        return low | self._read(offset + 4, 4) << 32

    def read64_hi_lo(self, offset: int) -> int:
        """Two accesses of 32 bits: `offset + 4`, then `offset`."""
        self._check(offset, 8, 4)
        high = self._read(offset + 4, 4)
        return high << 32 | self._read(offset, 4)

    def write8(self, offset: int, value: int) -> None:
        self._check(offset, 1, 1)
        self._write(offset, 1, check_value(value, 1))

    def write16(self, offset: int, value: int) -> None:
        self._check(offset, 2, 2)
        self._write(offset, 2, check_value(value, 2))

    def write32(self, offset: int, value: int) -> None:
        self._check(offset, 4, 4)
        self._write(offset, 4, check_value(value, 4))

    def write64(self, offset: int, value: int) -> None:
        """One access of 64 bits."""
        self._check(offset, 8, 8)
        self._write(offset, 8, check_value(value, 8))

    def write64_lo_hi(self, offset: int, value: int) -> None:
        """Two accesses of 32 bits: `offset`, then `offset + 4`."""
        self._check(offset, 8, 4)
        value = check_value(value, 8)
        self._write(offset, 4, value & 0xFFFFFFFF)
        self._write(offset + 4, 4, value >> 32)

    def write64_hi_lo(self, offset: int, value: int) -> None:
        """Two accesses of 32 bits: `offset + 4`, then `offset`."""
        self._check(offset, 8, 4)
        value = check_value(value, 8)
        self._write(offset + 4, 4, value >> 32)
        self._write(offset, 4, value & 0xFFFFFFFF)

    def _check(self, offset: int, length: int, alignment: int) -> None:
        # A pair is checked as a whole, so that its first half is never written alone.
        if self._closed:
            raise RegionClosed(type(self).__name__)
        check_bounds(offset, length, self._size)
        if self._base is not None:
            check_alignment(offset, alignment, self._base)


class Window(RegionBase):
    """`size` bytes of another region, from `offset`. Closing it leaves the region open.

    Raises RegionBoundsError unless the window lies inside the region; both numbers may come from the device, so
    they are added as integers of any size.
    """

    def __init__(self, region: Region, offset: int, size: int) -> None:
        check_bounds(offset, size, region.size, "window")
        super().__init__(size, base=None)
        self._region = region
        self._offset = offset

    @property
    def region(self) -> Region:
        """The region this is a part of."""
        return self._region

    @property
    def offset(self) -> int:
        """Where the window starts in that region, in bytes."""
        return self._offset

    def _read(self, offset: int, width: int) -> int:
        return read_exact(self._region, self._offset + offset, width)

    def _write(self, offset: int, width: int, value: int) -> None:
        write_exact(self._region, self._offset + offset, width, value)

    def __repr__(self) -> str:
        return f"Window({self._region!r}, {self._offset:#x}, {self._size:#x})"


_READ: dict[int, Callable[[Region, int], int]] = {
    1: lambda region, offset: region.read8(offset),
    2: lambda region, offset: region.read16(offset),
    4: lambda region, offset: region.read32(offset),
    8: lambda region, offset: region.read64(offset),
}

_WRITE: dict[int, Callable[[Region, int, int], None]] = {
    1: lambda region, offset, value: region.write8(offset, value),
    2: lambda region, offset, value: region.write16(offset, value),
    4: lambda region, offset, value: region.write32(offset, value),
    8: lambda region, offset, value: region.write64(offset, value),
}


def read_exact(region: Region, offset: int, width: int) -> int:
    """One access of `width` bytes (1, 2, 4 or 8; KeyError otherwise), where the width is data."""
    return _READ[width](region, offset)


def write_exact(region: Region, offset: int, width: int, value: int) -> None:
    """One access of `width` bytes (1, 2, 4 or 8; KeyError otherwise), where the width is data."""
    _WRITE[width](region, offset, value)
