"""Ranges of bus addresses, and taking parts of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pci.errors import AllocationError, PciError

_LIMIT_32: Final = 1 << 32
_LIMIT_64: Final = 1 << 64


class Space(Enum):
    """The kinds of addresses that are given out, each from a window of its own."""

    MEMORY = "memory"
    PREFETCHABLE = "64-bit memory"
    IO = "I/O"


class AddressWindow:
    """`size` bytes from `base`, of which parts are taken. Raises PciError (EINVAL) unless it lies in 1 to 2**64 - 1.

    Address 0 cannot be in it: in a BAR it means that none was assigned.
    """

    def __init__(self, base: int, size: int) -> None:
        if base <= 0 or size <= 0 or base + size > _LIMIT_64:
            raise PciError("address window", "not a range of bytes behind address 0", f"{base:#x} and {size:#x} bytes")
        self.base = base
        self.size = size
        self._free = [(base, base + size)]

    def __str__(self) -> str:
        return f"{self.base:#x}-{self.base + self.size - 1:#x}"

    def __repr__(self) -> str:
        return f"AddressWindow({self.base:#x}, {self.size:#x})"

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.base + self.size

    @property
    def free(self) -> int:
        """Bytes that nobody has taken, in however many pieces."""
        return sum(end - start for start, end in self._free)

    def take(self, size: int, alignment: int, subject: object) -> int:
        """The lowest free `size` bytes at a multiple of `alignment`, a power of two, for `subject`.

        Raises AllocationError (ENOSPC) where there are none.
        """
        for index, (start, end) in enumerate(self._free):
            address = -(-start // alignment) * alignment
            if address + size <= end:
                rest = [(start, address), (address + size, end)]
                self._free[index : index + 1] = [(low, high) for low, high in rest if low < high]
                return address
        problem = f"no aligned {size:#x} bytes are left for it in the window"
        raise AllocationError(subject, problem, str(self), f"{self.free:#x} bytes are free there: use a larger window")

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What was taken inside is free again when an exception leaves."""
        before = list(self._free)
        try:
            yield
        except BaseException:
            self._free = before
            raise


@dataclass(frozen=True)
class AddressWindows:
    """Where BARs may be placed. `memory`, below 4 GiB, takes every memory BAR that may not or need not be elsewhere;
    `prefetchable`, anywhere, takes 64-bit BARs (behind a bridge only prefetchable ones); `io` takes I/O BARs.

    Without `prefetchable` 64-bit BARs are in `memory`; without `io` I/O BARs stay without an address, and I/O decoding
    off. Taking from the windows changes them, so that one set serves several calls. Raises PciError (EINVAL) for a
    window that is out of reach of its BARs.
    """

    memory: AddressWindow
    prefetchable: AddressWindow | None = None
    io: AddressWindow | None = None

    def __post_init__(self) -> None:
        for space, window in self.present.items():
            if space is not Space.PREFETCHABLE and window.end > _LIMIT_32:
                raise PciError(f"{space.value} window", "its addresses do not fit 32 bits", str(window))

    @property
    def present(self) -> dict[Space, AddressWindow]:
        """Those that there are."""
        every = {Space.MEMORY: self.memory, Space.PREFETCHABLE: self.prefetchable, Space.IO: self.io}
        return {space: window for space, window in every.items() if window is not None}
