"""The addresses that a PCI-to-PCI bridge passes on (PCI-to-PCI Bridge 1.2, 3.2.5.6 to 3.2.5.10)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pci.errors import AllocationError
from pci.window import AddressWindow, Space

if TYPE_CHECKING:
    from pci.config import ConfigSpace

_IO: Final = 0x1C
_MEMORY: Final = 0x20
_PREFETCHABLE: Final = 0x24
_PREFETCHABLE_UPPER: Final = (0x28, 0x2C)
_IO_UPPER: Final = 0x30

_TYPE: Final = 0xF
_WIDE: Final = 0x1
"""The type of a window whose addresses have upper halves: 32 bits of I/O, 64 bits of memory."""

GRANULARITY: Final = {Space.MEMORY: 1 << 20, Space.PREFETCHABLE: 1 << 20, Space.IO: 1 << 12}
"""What the base and the size of a bridge's window are multiples of, in bytes."""

_Range = tuple[int, int]
"""The first and the last address; the last in front of the first in a window that is closed."""


def passes_64_bits(config: ConfigSpace) -> bool:
    """Whether the bridge has a window for prefetchable memory above 4 GiB."""
    return config.read16(_PREFETCHABLE) & _TYPE == _WIDE


def read_windows(config: ConfigSpace) -> dict[Space, AddressWindow]:
    """The windows that are open, with all of each free. The prefetchable one is here only when it is of 64 bits."""
    ranges = {Space.MEMORY: _read_memory(config, _MEMORY), Space.IO: _read_io(config)}
    if passes_64_bits(config):
        ranges[Space.PREFETCHABLE] = _read_prefetchable(config)
    # From 0 is what a window that the bridge does not have reads as, and no BAR may be at 0 anyway.
    return {space: AddressWindow(base, last - base + 1) for space, (base, last) in ranges.items() if 0 < base <= last}


def write_window(config: ConfigSpace, space: Space, window: AddressWindow | None) -> None:
    """Open one of the bridge's windows, or close it (None); turn the bridge's decoding off before.

    `window` must have the granularity of its space. Raises AllocationError (EIO) when the bridge does not take it: it
    may lack this window, or reach only 16 bits of I/O addresses.
    """
    base, last = (window.base, window.end - 1) if window else _CLOSED[space]
    _WRITERS[space](config, base, last)
    found = read_windows(config).get(space)
    if (found and (found.base, found.size)) != (window and (window.base, window.size)):
        problem = f"the bridge did not take its {space.value} window"
        raise AllocationError(config, problem, str(window or "closed"), code=errno.EIO)


_CLOSED: Final[dict[Space, _Range]] = {
    Space.MEMORY: (0xFFF0_0000, 0xFFFFF),
    Space.PREFETCHABLE: (0xFFF0_0000, 0xFFFFF),
    Space.IO: (0xF000, 0xFFF),
}
"""Base above limit, which is how a window is closed."""


def _read_memory(config: ConfigSpace, offset: int) -> _Range:
    base, last = config.read16(offset), config.read16(offset + 2)
    return (base & ~_TYPE) << 16, (last & ~_TYPE) << 16 | 0xF_FFFF


def _read_prefetchable(config: ConfigSpace) -> _Range:
    base, last = _read_memory(config, _PREFETCHABLE)
    upper_base, upper_last = (config.read32(offset) << 32 for offset in _PREFETCHABLE_UPPER)
    return upper_base | base, upper_last | last


def _read_io(config: ConfigSpace) -> _Range:
    base, last = config.read8(_IO), config.read8(_IO + 1)
    upper = config.read32(_IO_UPPER) if base & _TYPE == _WIDE else 0
    return (upper & 0xFFFF) << 16 | (base & ~_TYPE) << 8, upper >> 16 << 16 | (last & ~_TYPE) << 8 | 0xFFF


def _write_memory(config: ConfigSpace, base: int, last: int) -> None:
    config.write32(_MEMORY, _memory_word(base, last))


def _memory_word(base: int, last: int) -> int:
    return base >> 16 & 0xFFF0 | (last >> 16 & 0xFFF0) << 16


def _write_prefetchable(config: ConfigSpace, base: int, last: int) -> None:
    config.write32(_PREFETCHABLE, _memory_word(base, last))
    if not passes_64_bits(config):
        return
    for offset, address in zip(_PREFETCHABLE_UPPER, (base, last), strict=True):
        config.write32(offset, address >> 32)


def _write_io(config: ConfigSpace, base: int, last: int) -> None:
    # 16 bits and no more: the secondary status is beside it, and ones written there clear errors.
    config.write16(_IO, base >> 8 & 0xF0 | (last >> 8 & 0xF0) << 8)
    if config.read8(_IO) & _TYPE == _WIDE:
        config.write32(_IO_UPPER, base >> 16 | last >> 16 << 16)


_WRITERS: Final[dict[Space, Callable[[ConfigSpace, int, int], None]]] = {
    Space.MEMORY: _write_memory,
    Space.PREFETCHABLE: _write_prefetchable,
    Space.IO: _write_io,
}
