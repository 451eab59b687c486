"""Lists of capabilities: the one in the first 256 bytes (PCI 3.0, 6.7) and the extended one (PCI Express 4.0, 7.6).

The function can write whatever it likes there, so a walk visits no place twice, stays inside its part of configuration
space, and says where a list is broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from pci.access import CONFIG_SIZE
from pci.errors import CapabilityError
from pci.header import HEADER_SIZE, STATUS_OFFSET, HeaderType, Status, no_answer, read_info

if TYPE_CHECKING:
    from pci.config import ConfigSpace

_POINTER_OFFSET: Final = 0x34
_CARDBUS_POINTER_OFFSET: Final = 0x14
_ONES: Final = 0xFFFF_FFFF


class CapabilityId(IntEnum):
    """The ids that code asks for by name; `CAPABILITY_NAMES` has all."""

    POWER_MANAGEMENT = 0x01
    MSI = 0x05
    VENDOR_SPECIFIC = 0x09
    PCI_EXPRESS = 0x10
    MSIX = 0x11


CAPABILITY_NAMES: Final = {
    0x00: "Null",
    0x01: "Power Management",
    0x02: "AGP",
    0x03: "Vital Product Data",
    0x04: "Slot Identification",
    0x05: "MSI",
    0x06: "CompactPCI Hot Swap",
    0x07: "PCI-X",
    0x08: "HyperTransport",
    0x09: "Vendor Specific",
    0x0A: "Debug Port",
    0x0B: "CompactPCI Resource Control",
    0x0C: "Hot-Plug",
    0x0D: "Bridge Subsystem Vendor ID",
    0x0E: "AGP 8x",
    0x0F: "Secure Device",
    0x10: "PCI Express",
    0x11: "MSI-X",
    0x12: "SATA Configuration",
    0x13: "Advanced Features",
    0x14: "Enhanced Allocation",
    0x15: "Flattening Portal Bridge",
}
"""For people to read, by id (PCI Code and ID Assignment)."""

EXTENDED_CAPABILITY_NAMES: Final = {
    0x0000: "Null",
    0x0001: "Advanced Error Reporting",
    0x0002: "Virtual Channel",
    0x0003: "Device Serial Number",
    0x0004: "Power Budgeting",
    0x000B: "Vendor Specific",
    0x000D: "Access Control Services",
    0x000E: "Alternative Routing-ID Interpretation",
    0x000F: "Address Translation Services",
    0x0010: "Single Root I/O Virtualization",
    0x0013: "Page Request Interface",
    0x0015: "Resizable BAR",
    0x0017: "TPH Requester",
    0x0018: "Latency Tolerance Reporting",
    0x0019: "Secondary PCI Express",
    0x001B: "Process Address Space ID",
    0x001D: "Downstream Port Containment",
    0x001E: "L1 PM Substates",
    0x001F: "Precision Time Measurement",
    0x0023: "Designated Vendor-Specific",
    0x0025: "Data Link Feature",
    0x0026: "Physical Layer 16.0 GT/s",
    0x0027: "Lane Margining at the Receiver",
}
"""For people to read, by id (PCI Code and ID Assignment)."""


@dataclass(frozen=True)
class CapabilityInfo:
    """A capability: where it is in configuration space, its id, and its bytes 2 and 3 (`private_header`, 16 bits)."""

    offset: int
    id: int
    private_header: int

    @property
    def name(self) -> str:
        """For people to read: `MSI-X`, or `capability 0x77` for one that nobody named."""
        return CAPABILITY_NAMES.get(self.id, f"capability {self.id:#04x}")


@dataclass(frozen=True)
class ExtendedCapabilityInfo:
    """An extended capability: where it is in configuration space, its id (16 bits) and its version (4 bits)."""

    offset: int
    id: int
    version: int

    @property
    def name(self) -> str:
        """For people to read: `Access Control Services`, or `extended capability 0x0077`."""
        return EXTENDED_CAPABILITY_NAMES.get(self.id, f"extended capability {self.id:#06x}")


class CapabilityIterator(Iterator[CapabilityInfo]):
    """The capabilities of a function in the order of its list, read as they are taken; none without the status bit.

    At most 48. Raises CapabilityError where the list is broken, ConfigAccessError where it cannot be read.
    """

    def __init__(self, config: ConfigSpace) -> None:
        self._walk = _walk_standard(config)

    def __next__(self) -> CapabilityInfo:
        return next(self._walk)


class ExtendedCapabilityIterator(Iterator[ExtendedCapabilityInfo]):
    """The extended capabilities of a function, read as they are taken; none when the space ends at 0x100.

    At most 960. Raises CapabilityError where the list is broken, ConfigAccessError where it cannot be read.
    """

    def __init__(self, config: ConfigSpace) -> None:
        self._walk = _walk_extended(config)

    def __next__(self) -> ExtendedCapabilityInfo:
        return next(self._walk)


@dataclass(frozen=True)
class _ListFormat:
    """A linked list of 32-bit headers from byte `start` on; a header names the next one, as far as the mask reaches."""

    name: str
    start: int
    next_shift: int
    next_mask: int

    def walk(self, config: ConfigSpace, pointer: int) -> Iterator[tuple[int, int]]:
        """(offset, header) of each. The two lowest bits of a pointer are reserved and are not looked at."""
        came_from, seen = "the header", set[int]()
        while pointer:
            self._check(config, pointer, came_from, seen)
            seen.add(pointer)
            header = config.read32(pointer)
            if header == _ONES:
                raise CapabilityError(config, f"the {self.name} leads to bytes that read as ones, at offset", pointer)
            yield pointer, header
            came_from, pointer = f"offset {pointer:#x}", header >> self.next_shift & self.next_mask

    def _check(self, config: ConfigSpace, pointer: int, came_from: str, seen: set[int]) -> None:
        link = f"the {self.name} is broken: the pointer in {came_from}"
        if pointer < self.start:
            raise CapabilityError(config, f"{link} leads in front of {self.start:#x}", pointer)
        if pointer in seen:
            raise CapabilityError(config, f"{link} leads back to where the walk has been", pointer)
        if pointer + 4 > config.size:
            problem = f"{link} leads past the {config.size:#x} bytes that can be read"
            raise CapabilityError(config, problem, pointer)


_STANDARD: Final = _ListFormat("capability list", HEADER_SIZE, 8, 0xFC)
_EXTENDED: Final = _ListFormat("extended capability list", CONFIG_SIZE, 20, 0xFFC)


def _walk_standard(config: ConfigSpace) -> Iterator[CapabilityInfo]:
    for offset, header in _STANDARD.walk(config, _read_first(config)):
        yield CapabilityInfo(offset, header & 0xFF, header >> 16)


def _read_first(config: ConfigSpace) -> int:
    status = config.read16(STATUS_OFFSET)
    if status == 0xFFFF:
        raise no_answer(config, status)
    if not status & Status.CAPABILITIES_LIST:
        return 0
    cardbus = read_info(config).header_type is HeaderType.PciCardbusBridge
    return config.read8(_CARDBUS_POINTER_OFFSET if cardbus else _POINTER_OFFSET) & 0xFC


def _walk_extended(config: ConfigSpace) -> Iterator[ExtendedCapabilityInfo]:
    if config.size <= CONFIG_SIZE or config.read32(CONFIG_SIZE) in (0, _ONES):
        return
    for offset, header in _EXTENDED.walk(config, CONFIG_SIZE):
        yield ExtendedCapabilityInfo(offset, header & 0xFFFF, header >> 16 & 0xF)
