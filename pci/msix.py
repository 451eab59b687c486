"""MSI-X: how many interrupt vectors a function has, where their table is, and what is in it (PCI 3.0, 6.8.2)."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pci.access import CONFIG_SIZE
from pci.bar import BAR_LIMIT, BarInfo, MemoryBar
from pci.capability import CapabilityId, CapabilityInfo
from pci.errors import CapabilityError, PciError

if TYPE_CHECKING:
    from pci.config import ConfigSpace
    from pci.registers import Registers

_CONTROL: Final = 2
_TABLE: Final = 4
_PENDING: Final = 8
_LENGTH: Final = 12

_SIZE_MASK: Final = 0x7FF
_FUNCTION_MASK: Final = 1 << 14
_ENABLE: Final = 1 << 15
_BAR_MASK: Final = 0x7

_ENTRY_SIZE: Final = 16
_ADDRESS: Final = 0
_UPPER_ADDRESS: Final = 4
_DATA: Final = 8
_VECTOR_CONTROL: Final = 12
_MASKED: Final = 1 << 0


@dataclass(frozen=True)
class MsixInfo:
    """`table_size` vectors (1 to 2048), 16 bytes each, at `table_offset` of BAR `table_bar`; a pending bit each at
    `pba_offset` of BAR `pba_bar`. `enabled`: MSI-X is on, and INTx is off. `masked`: no vector may fire now.
    `offset` is the place of the capability; offsets are in bytes."""

    offset: int
    table_size: int
    table_bar: int
    table_offset: int
    pba_bar: int
    pba_offset: int
    enabled: bool
    masked: bool

    @classmethod
    def parse(cls, capability: CapabilityInfo, table: int, pending: int) -> MsixInfo:
        """From the capability and the two words behind it. Raises CapabilityError for a BAR that cannot be."""
        for what, word in (("table", table), ("pending bit array", pending)):
            if word & _BAR_MASK >= BAR_LIMIT:
                subject = f"MSI-X capability at {capability.offset:#x}"
                raise CapabilityError(subject, f"its {what} is in a BAR that no function has", word & _BAR_MASK)
        control = capability.private_header
        return cls(
            offset=capability.offset,
            table_size=(control & _SIZE_MASK) + 1,
            table_bar=table & _BAR_MASK,
            table_offset=table & ~_BAR_MASK,
            pba_bar=pending & _BAR_MASK,
            pba_offset=pending & ~_BAR_MASK,
            enabled=bool(control & _ENABLE),
            masked=bool(control & _FUNCTION_MASK),
        )

    def table_address(self, bars: Mapping[int, BarInfo]) -> int:
        """The bus address of the table. Raises CapabilityError unless all of it lies in memory that has an address."""
        subject, bar = f"MSI-X capability at {self.offset:#x}", bars.get(self.table_bar)
        if not isinstance(bar, MemoryBar) or not bar.address:
            raise CapabilityError(subject, "its table is in a BAR that has no memory at an address", self.table_bar)
        end = self.table_offset + self.table_size * _ENTRY_SIZE
        if end > bar.size:
            problem = f"its table ends behind the end of BAR {self.table_bar} ({bar.size:#x} bytes), at"
            raise CapabilityError(subject, problem, end)
        return bar.address + self.table_offset


def read_msix(config: ConfigSpace) -> MsixInfo | None:
    """The function's MSI-X capability, or None. Raises CapabilityError for one that is broken, ConfigAccessError."""
    found = config.find_capability(CapabilityId.MSIX)
    if found is None:
        return None
    if found.offset + _LENGTH > CONFIG_SIZE:
        raise CapabilityError(config, "the MSI-X capability does not fit in front of 0x100, at offset", found.offset)
    return MsixInfo.parse(found, config.read32(found.offset + _TABLE), config.read32(found.offset + _PENDING))


def enable_msix(config: ConfigSpace, *, masked: bool = False) -> MsixInfo:
    """Turn MSI-X on, which turns INTx off, and return the capability; `masked`: no vector may fire yet.

    Raises CapabilityError for a function without MSI-X (EOPNOTSUPP) or with a broken one, ConfigAccessError.
    """
    return _write_control(config, _ENABLE | (_FUNCTION_MASK if masked else 0))


def disable_msix(config: ConfigSpace) -> MsixInfo:
    """Turn MSI-X and its function mask off. Raises as `enable_msix`."""
    return _write_control(config, 0)


def _write_control(config: ConfigSpace, bits: int) -> MsixInfo:
    found = read_msix(config)
    if found is None:
        raise CapabilityError(config, "the function has no MSI-X", remedy="use INTx", code=errno.EOPNOTSUPP)
    offset = found.offset + _CONTROL
    config.write16(offset, config.read16(offset) & ~(_ENABLE | _FUNCTION_MASK) | bits)
    return replace(found, enabled=bool(bits & _ENABLE), masked=bool(bits & _FUNCTION_MASK))


@dataclass(frozen=True)
class MsixEntry:
    """A vector: the memory write of 32 bits, `data` at `address`, that is its interrupt, and whether it is masked."""

    address: int
    data: int
    masked: bool


class MsixTable:
    """The table of `vectors` vectors at the start of `region`, which stays the caller's.

    Every access is of 32 bits (PCI 3.0, 6.8.2). After a reset all vectors are masked. Raises CapabilityError for a
    region that the table does not fit into, and PciError (EINVAL) for a vector or a message that cannot be.
    """

    def __init__(self, region: Registers, vectors: int) -> None:
        if region.size < vectors * _ENTRY_SIZE:
            problem = f"{vectors} vectors are {vectors * _ENTRY_SIZE:#x} bytes, and the region has"
            raise CapabilityError("MSI-X table", problem, region.size)
        self._region = region
        self.vectors = vectors

    def set(self, vector: int, address: int, data: int) -> None:
        """Give a vector its message; a vector that was not masked is masked meanwhile (PCI 3.0, 6.8.3.5)."""
        entry = self._entry(vector)
        _check_message(vector, address, data)
        control = self._region.read32(entry + _VECTOR_CONTROL)
        self._region.write32(entry + _VECTOR_CONTROL, control | _MASKED)
        self._region.write32(entry + _ADDRESS, address & 0xFFFF_FFFF)
        self._region.write32(entry + _UPPER_ADDRESS, address >> 32)
        self._region.write32(entry + _DATA, data)
        self._region.write32(entry + _VECTOR_CONTROL, control)

    def mask(self, vector: int) -> None:
        """The vector does not fire; the function remembers that it wanted to."""
        self._write_mask(vector, _MASKED)

    def unmask(self, vector: int) -> None:
        """The vector may fire, and does at once if it is pending."""
        self._write_mask(vector, 0)

    def read(self, vector: int) -> MsixEntry:
        """The vector as the function has it."""
        entry = self._entry(vector)
        low, high, data, control = (self._region.read32(entry + 4 * word) for word in range(4))
        return MsixEntry(low | high << 32, data, bool(control & _MASKED))

    def _write_mask(self, vector: int, bit: int) -> None:
        place = self._entry(vector) + _VECTOR_CONTROL
        self._region.write32(place, self._region.read32(place) & ~_MASKED | bit)

    def _entry(self, vector: int) -> int:
        if not 0 <= vector < self.vectors:
            raise PciError("MSI-X table", f"it has {self.vectors} vectors, and none of number", str(vector))
        return vector * _ENTRY_SIZE


def _check_message(vector: int, address: int, data: int) -> None:
    if address % 4 or not 0 <= address < 1 << 64:
        raise PciError(f"MSI-X vector {vector}", "no message can go to address", address, "use a multiple of 4")
    if not 0 <= data < 1 << 32:
        raise PciError(f"MSI-X vector {vector}", "the data of a message is 32 bits, not", data)
