"""Base address registers: what memory and I/O a function decodes, and how much (PCI 3.0, 6.2.5.1).

Sizes come from one of two places. `read_bars` asks the function, by writing ones, and for that moment the function
decodes nothing: only the owner of a function may. `parse_resource_file` takes what the kernel found out when it
started, and disturbs nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from pci.errors import InvalidBarType, PciError
from pci.header import Command, HeaderType, read_info

if TYPE_CHECKING:
    from pci.config import ConfigSpace

BAR0_OFFSET: Final = 0x10
BAR_LIMIT: Final = 6

BAR_COUNTS: Final = {HeaderType.Standard: 6, HeaderType.PciPciBridge: 2, HeaderType.PciCardbusBridge: 1}
"""Base address registers a header type has; one that is not listed has none that anybody knows."""

_IO: Final = 0x1
_TYPE_SHIFT: Final = 1
_TYPE_MASK: Final = 0x3
_PREFETCHABLE: Final = 0x8
_IO_ADDRESS: Final = ~0x3
_MEMORY_ADDRESS: Final = ~0xF
_ONES: Final = 0xFFFF_FFFF

# include/linux/ioport.h; the low byte belongs to the bus, and there PCI keeps the low bits of the register.
_IORESOURCE_IO: Final = 0x100
_IORESOURCE_MEM: Final = 0x200
_IORESOURCE_PREFETCH: Final = 0x2000
_IORESOURCE_MEM_64: Final = 0x10_0000


class MemoryBarType(IntEnum):
    """Where the memory of a BAR may be placed. The fourth value that the two bits can have is reserved."""

    Width32 = 0
    Below1MiB = 1
    Width64 = 2


@dataclass(frozen=True)
class MemoryBar:
    """Memory at bus address `address`, 0 when none was assigned; `size` in bytes; both are integers of 64 bits."""

    index: int
    address_type: MemoryBarType
    prefetchable: bool
    address: int
    size: int


@dataclass(frozen=True)
class IoBar:
    """I/O ports from `address`, 0 when none was assigned; `size` in bytes."""

    index: int
    address: int
    size: int


BarInfo: TypeAlias = MemoryBar | IoBar


@dataclass(frozen=True)
class _Slot:
    """One BAR as it was found: `raw` is one register, or two with the lower in front."""

    index: int
    raw: int
    registers: int

    @property
    def offsets(self) -> list[int]:
        return [bar_offset(self.index + i) for i in range(self.registers)]

    @property
    def words(self) -> list[int]:
        return [self.raw >> 32 * i & _ONES for i in range(self.registers)]

    def decode(self, mask: int) -> BarInfo | None:
        """`mask` is what the registers read after ones were written; None when no bit of it can be set."""
        keep = _IO_ADDRESS if self.raw & _IO else _MEMORY_ADDRESS
        settable = mask & keep
        size = settable & -settable
        if not size:
            return None
        if self.raw & _IO:
            return IoBar(self.index, self.raw & keep, size)
        prefetchable = bool(self.raw & _PREFETCHABLE)
        return MemoryBar(self.index, MemoryBarType(_type_of(self.raw)), prefetchable, self.raw & keep, size)


def bar_offset(index: int) -> int:
    """Where BAR `index` is in configuration space. Raises PciError (EINVAL) for one that no function has."""
    if not 0 <= index < BAR_LIMIT:
        raise PciError("base address register", "there is none of this number", str(index), "use 0 to 5")
    return BAR0_OFFSET + 4 * index


def read_bars(config: ConfigSpace) -> dict[int, BarInfo]:
    """The BARs of a function that you own, by index; a BAR that is not implemented is left out.

    A 64-bit BAR is under the lower of its two indices. Memory and I/O decoding is off while ones are in the registers;
    everything is as before when this returns or raises. Raises InvalidBarType before anything was written, and
    ConfigAccessError.
    """
    slots = list(_read_slots(config))
    with _decoding_off(config):
        found = [slot.decode(_read_mask(config, slot)) for slot in slots]
    return {bar.index: bar for bar in found if bar is not None}


def read_bar(config: ConfigSpace, index: int) -> BarInfo | None:
    """As `read_bars` for one BAR, writing to no other; None when it is not implemented or is the upper half of one.

    Raises PciError (EINVAL) for an index that no function has.
    """
    bar_offset(index)
    slots = [slot for slot in _read_slots(config) if slot.index == index]
    with _decoding_off(config):
        return slots[0].decode(_read_mask(config, slots[0])) if slots else None


def parse_resource_file(text: str) -> dict[int, BarInfo]:
    """The same from the text of a sysfs `resource` file: a line a BAR, `start end flags` in hexadecimal.

    Only the lines of BARs 0 to 5 are used (ROM, windows of bridges and SR-IOV come behind them). Touches no device.
    Raises PciError (EINVAL) for a line that cannot be one.
    """
    bars = [_parse_resource(index, line) for index, line in enumerate(text.splitlines()[:BAR_LIMIT])]
    return {bar.index: bar for bar in bars if bar is not None}


def _type_of(raw: int) -> int:
    return raw >> _TYPE_SHIFT & _TYPE_MASK


# --- Asking the function ----------------------------------------------------------------------------------------------


def _read_slots(config: ConfigSpace) -> Iterator[_Slot]:
    count = BAR_COUNTS.get(read_info(config).header_type, 0)
    index = 0
    while index < count:
        slot = _read_slot(config, index, count)
        yield slot
        index += slot.registers


def _read_slot(config: ConfigSpace, index: int, count: int) -> _Slot:
    raw = config.read32(bar_offset(index))
    if raw & _IO or _type_of(raw) in (MemoryBarType.Width32, MemoryBarType.Below1MiB):
        return _Slot(index, raw, 1)
    if _type_of(raw) != MemoryBarType.Width64:
        raise InvalidBarType(f"{config}, BAR {index}", "the memory type is the reserved one, 3", raw)
    if index + 1 >= count:
        raise InvalidBarType(f"{config}, BAR {index}", "a 64-bit BAR, and no register is left for its upper half", raw)
    return _Slot(index, raw | config.read32(bar_offset(index + 1)) << 32, 2)


@contextmanager
def _decoding_off(config: ConfigSpace) -> Iterator[None]:
    # With ones in a BAR the function would answer at addresses that belong to others.
    command = config.read_command()
    try:
        config.write_command(command.without(Command.IO_SPACE | Command.MEMORY_SPACE))
        yield
    finally:
        config.write_command(command)


def _read_mask(config: ConfigSpace, slot: _Slot) -> int:
    with ExitStack() as restore:
        for offset, word in zip(slot.offsets, slot.words, strict=True):
            # Before the write, which may fail after it took effect.
            restore.callback(config.write32, offset, word)
            config.write32(offset, _ONES)
        return sum(config.read32(offset) << 32 * i for i, offset in enumerate(slot.offsets))


# --- What the kernel found --------------------------------------------------------------------------------------------


def _parse_resource(index: int, line: str) -> BarInfo | None:
    start, end, flags = _parse_numbers(index, line)
    size = end - start + 1
    if not flags or start == end == 0 or size == 1 << 64:
        # Without flags nothing is there; the other two are how kernels have written an empty range.
        return None
    if size <= 0:
        raise PciError(f"resource file, line {index + 1}", "the range ends before it starts", repr(line))
    if flags & _IORESOURCE_IO:
        return IoBar(index, start, size)
    if flags & _IORESOURCE_MEM:
        return MemoryBar(index, _resource_type(flags), bool(flags & _IORESOURCE_PREFETCH), start, size)
    raise PciError(f"resource file, line {index + 1}", "neither memory nor I/O", repr(line))


def _parse_numbers(index: int, line: str) -> tuple[int, int, int]:
    try:
        start, end, flags = (int(word, 16) for word in line.split())
    except ValueError:
        subject, remedy = f"resource file, line {index + 1}", "give the text of the device's `resource` in sysfs"
        raise PciError(subject, "not three hexadecimal numbers", repr(line), remedy) from None
    if min(start, end, flags) < 0:
        raise PciError(f"resource file, line {index + 1}", "a number is negative", repr(line))
    return start, end, flags


def _resource_type(flags: int) -> MemoryBarType:
    if flags & _IORESOURCE_MEM_64:
        return MemoryBarType.Width64
    # drivers/pci/probe.c keeps the low bits of the register in the flags, and has no flag of its own for this type.
    return MemoryBarType.Below1MiB if _type_of(flags) == MemoryBarType.Below1MiB else MemoryBarType.Width32
