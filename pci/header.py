"""The first 64 bytes of configuration space: who the function is, its command and its status (PCI 3.0, 6.1, 6.2)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final

from pci.errors import ConfigAccessError

if TYPE_CHECKING:
    from pci.config import ConfigSpace

IDS_OFFSET: Final = 0x00
COMMAND_OFFSET: Final = 0x04
STATUS_OFFSET: Final = 0x06
CLASS_OFFSET: Final = 0x08
HEADER_TYPE_OFFSET: Final = 0x0E
SUBSYSTEM_OFFSET: Final = 0x2C
HEADER_SIZE: Final = 0x40

NO_VENDOR: Final = 0xFFFF
"""What the vendor id reads as when no function answers (PCI 3.0, 6.2.1)."""

_MULTIFUNCTION: Final = 0x80


class Command(IntFlag):
    """The command register (PCI 3.0, 6.2.2). Reserved bits are kept, so that they are written back as they were."""

    IO_SPACE = 1 << 0
    MEMORY_SPACE = 1 << 1
    BUS_MASTER = 1 << 2
    SPECIAL_CYCLES = 1 << 3
    MEMORY_WRITE_AND_INVALIDATE_ENABLE = 1 << 4
    VGA_PALETTE_SNOOP = 1 << 5
    PARITY_ERROR_RESPONSE = 1 << 6
    SERR_ENABLE = 1 << 8
    FAST_BACK_TO_BACK_ENABLE = 1 << 9
    INTERRUPT_DISABLE = 1 << 10

    def without(self, bits: Command) -> Command:
        """These bits cleared and every other kept. `command & ~bits` drops reserved bits in some Python versions."""
        return Command(int(self) & ~int(bits))


class Status(IntFlag):
    """The status register (PCI 3.0, 6.2.3); writing a one to an error bit clears it. Reserved bits are kept."""

    IMMEDIATE_READINESS = 1 << 0
    INTERRUPT_STATUS = 1 << 3
    CAPABILITIES_LIST = 1 << 4
    MHZ_66_CAPABLE = 1 << 5
    FAST_BACK_TO_BACK_CAPABLE = 1 << 7
    MASTER_DATA_PARITY_ERROR = 1 << 8
    SIGNALED_TARGET_ABORT = 1 << 11
    RECEIVED_TARGET_ABORT = 1 << 12
    RECEIVED_MASTER_ABORT = 1 << 13
    SIGNALED_SYSTEM_ERROR = 1 << 14
    DETECTED_PARITY_ERROR = 1 << 15


class HeaderType(IntEnum):
    """The layout of bytes 0x10 to 0x3f, without the multifunction bit.

    Any value of 7 bits has a member: one that PCI does not define is named `Unrecognised` and keeps its value.
    """

    Standard = 0
    PciPciBridge = 1
    PciCardbusBridge = 2

    @classmethod
    def _missing_(cls, value: object) -> HeaderType | None:
        if not isinstance(value, int) or not 0 <= value < _MULTIFUNCTION:
            return None
        member = int.__new__(cls, value)
        member._name_, member._value_ = "Unrecognised", value
        return member

    def __reduce_ex__(self, protocol: object) -> tuple[type[HeaderType], tuple[int]]:
        # By value: early releases of Python 3.11 pickle a member by its name, and `Unrecognised` is not one to find.
        return HeaderType, (int(self),)

    @property
    def recognised(self) -> bool:
        """Whether PCI defines this layout."""
        return self.name != "Unrecognised"


@dataclass(frozen=True)
class DeviceFunctionInfo:
    """Who a function is, from its header.

    `class_code` is the base class, which the register's description and other languages call `class` (a keyword here);
    with `subclass` and `prog_if` it makes the class code of 24 bits. `subsystem_vendor_id` and `subsystem_id` are 0 for
    a header type other than Standard, which has them elsewhere or not at all.
    """

    vendor_id: int
    device_id: int
    class_code: int
    subclass: int
    prog_if: int
    revision: int
    header_type: HeaderType
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0
    multifunction: bool = False

    def __str__(self) -> str:
        """`1af4:1042 (class 01.80.00, revision 0x01)`"""
        kind = f"{self.class_code:02x}.{self.subclass:02x}.{self.prog_if:02x}"
        return f"{self.vendor_id:04x}:{self.device_id:04x} (class {kind}, revision {self.revision:#04x})"


def read_info(config: ConfigSpace) -> DeviceFunctionInfo:
    """The identity of the function. Raises ConfigAccessError: ENODEV when no function answers."""
    ids = config.read32(IDS_OFFSET)
    if ids & 0xFFFF == NO_VENDOR:
        raise no_answer(config, ids)
    code, kind = config.read32(CLASS_OFFSET), config.read8(HEADER_TYPE_OFFSET)
    header_type = HeaderType(kind & ~_MULTIFUNCTION)
    subsystem = config.read32(SUBSYSTEM_OFFSET) if header_type is HeaderType.Standard else 0
    return DeviceFunctionInfo(
        vendor_id=ids & 0xFFFF,
        device_id=ids >> 16,
        class_code=code >> 24,
        subclass=code >> 16 & 0xFF,
        prog_if=code >> 8 & 0xFF,
        revision=code & 0xFF,
        header_type=header_type,
        subsystem_vendor_id=subsystem & 0xFFFF,
        subsystem_id=subsystem >> 16,
        multifunction=bool(kind & _MULTIFUNCTION),
    )


def no_answer(config: ConfigSpace, value: int) -> ConfigAccessError:
    """The error for registers that read as ones because nothing is there."""
    remedy = "the device was removed or is switched off: check with lspci"
    return ConfigAccessError(config, "no function answers, the register reads", value, remedy, code=errno.ENODEV)
