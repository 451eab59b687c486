"""A configuration space in memory: bytes, which bits of them can be written, and a record of every access."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from pci.access import CONFIG_SIZE, AbsentConfigAccess, ConfigAccess, check_access, check_value
from pci.bar import BarInfo, IoBar, MemoryBarType, bar_offset
from pci.errors import PciError
from pci.function import DeviceFunction
from pci.header import COMMAND_OFFSET, HEADER_SIZE, STATUS_OFFSET, Status

_POINTER_OFFSET: Final = 0x34
_ERRORS: Final = (
    Status.MASTER_DATA_PARITY_ERROR
    | Status.SIGNALED_TARGET_ABORT
    | Status.RECEIVED_TARGET_ABORT
    | Status.RECEIVED_MASTER_ABORT
    | Status.SIGNALED_SYSTEM_ERROR
    | Status.DETECTED_PARITY_ERROR
)

_DEFAULT_MASKS: Final = {
    COMMAND_OFFSET: 0xFF,
    COMMAND_OFFSET + 1: 0x07,
    0x0C: 0xFF,  # cache line size
    0x3C: 0xFF,  # interrupt line
}
"""What can be written in any function: byte offset to bits."""


class RecordedAccess(NamedTuple):
    """One access, equal to the plain tuple; `width` in bytes, `value` what was read or written."""

    op: Literal["read", "write"]
    offset: int
    width: int
    value: int


class BytesConfigAccess:
    """A fake function made of `data`, which is copied.

    `write_masks` says which bits a write changes, by byte offset: `{0x3c: 0xff}`. Left out, it is what every function
    has: command, cache line size, interrupt line; `{}` makes all of it read-only. The errors of the status register are
    cleared by ones whatever the masks, so a write that should have been 16 bits wide shows. `accesses` lists what was
    done through read() and write(); the `declare_` helpers are not in it.
    """

    def __init__(self, data: bytes, write_masks: Mapping[int, int] | None = None, name: str = "fake function") -> None:
        self.data = bytearray(data)
        self.write_masks = bytearray(len(data))
        self.accesses: list[RecordedAccess] = []
        self._name = name
        if write_masks is None:
            write_masks = {offset: mask for offset, mask in _DEFAULT_MASKS.items() if offset < len(data)}
        for offset, mask in write_masks.items():
            self.write_masks[offset] = mask

    def __str__(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def writes(self) -> list[RecordedAccess]:
        """The writes among `accesses`."""
        return [access for access in self.accesses if access.op == "write"]

    def read(self, offset: int, width: int) -> int:
        check_access(self, offset, width)
        value = int.from_bytes(self.data[offset : offset + width], "little")
        self.accesses.append(RecordedAccess("read", offset, width, value))
        return value

    def write(self, offset: int, width: int, value: int) -> None:
        check_access(self, offset, width)
        check_value(self, width, value)
        self.accesses.append(RecordedAccess("write", offset, width, value))
        for position, byte in enumerate(value.to_bytes(width, "little"), offset):
            mask = self.write_masks[position]
            self.data[position] = (self.data[position] & ~mask | byte & mask) & ~(byte & _cleared_by_one(position))

    def poke(self, offset: int, data: bytes) -> None:
        """Set bytes as the device would: masks do not matter and nothing is recorded."""
        if offset < 0 or offset + len(data) > self.size:
            raise PciError(self, f"{len(data)} bytes do not fit the {self.size:#x} there are, at offset", offset)
        self.data[offset : offset + len(data)] = data

    def declare_bar(self, bar: BarInfo) -> None:
        """Give the function this BAR: its bits, and masks that make sizing find `bar.size` (a power of two)."""
        low, least, registers = _bar_shape(bar)
        if bar.size < least or bar.size & (bar.size - 1) or bar.size > 1 << 32 * registers - 1:
            raise PciError(f"{self}, BAR {bar.index}", "no BAR of this type can have this size", bar.size)
        offset, settable = bar_offset(bar.index), (1 << 32 * registers) - bar.size
        bar_offset(bar.index + registers - 1)
        self.poke(offset, (bar.address & settable | low).to_bytes(4 * registers, "little"))
        self.write_masks[offset : offset + 4 * registers] = settable.to_bytes(4 * registers, "little")

    def declare_capability(self, offset: int, id: int, body: bytes) -> None:  # noqa: A002
        """Put a capability at the end of the list: `body` is what follows the id and the pointer, from byte 2 on."""
        if not HEADER_SIZE <= offset < CONFIG_SIZE or offset % 4:
            raise PciError(self, "no capability can be at offset", offset, "use a multiple of 4 from 0x40 to 0xfc")
        link = self._end_of_list()
        self.poke(offset, bytes([id, 0]) + body)
        self.data[link] = offset
        self.data[STATUS_OFFSET] |= Status.CAPABILITIES_LIST

    def _end_of_list(self) -> int:
        """Where the last pointer of the capability list is; it is 0."""
        link = _POINTER_OFFSET
        for _ in range(CONFIG_SIZE):
            if not self.data[link]:
                return link
            link = self.data[link] + 1
        raise PciError(self, "the capability list has no end, so nothing can be added to it")


class BytesRootAccess:
    """A fake root complex: the functions of a dictionary, and nothing anywhere else."""

    def __init__(self, functions: Mapping[DeviceFunction, ConfigAccess]) -> None:
        self._functions = functions

    def config(self, function: DeviceFunction) -> ConfigAccess:
        return self._functions.get(function) or AbsentConfigAccess(function)


def new_function(vendor_id: int, device_id: int, size: int = CONFIG_SIZE, name: str = "") -> BytesConfigAccess:
    """A fake function with ids and decoding off, and nothing else: `size` bytes of configuration space."""
    fake = BytesConfigAccess(bytes(size), name=name or f"fake function {vendor_id:04x}:{device_id:04x}")
    fake.poke(0, vendor_id.to_bytes(2, "little") + device_id.to_bytes(2, "little"))
    return fake


def _cleared_by_one(position: int) -> int:
    if position not in (STATUS_OFFSET, STATUS_OFFSET + 1):
        return 0
    return int(_ERRORS) >> 8 * (position - STATUS_OFFSET) & 0xFF


def _bar_shape(bar: BarInfo) -> tuple[int, int, int]:
    """The fixed low bits, the least size in bytes, and the number of registers."""
    if isinstance(bar, IoBar):
        return 1, 4, 1
    low = bar.address_type << 1 | bar.prefetchable << 3
    return low, 16, 2 if bar.address_type is MemoryBarType.Width64 else 1
