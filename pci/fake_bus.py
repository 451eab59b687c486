"""A fake tree of bridges and functions, and the three ways to reach it: by function, as memory, through two ports.

A function answers only where the bridges above it are set up to route to it, as on a real bus.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pci.access import AbsentConfigAccess, ConfigAccess, RootAccess
from pci.access_bytes import BytesConfigAccess
from pci.bridge import BUS_NUMBERS_OFFSET
from pci.cam import Cam
from pci.function import DeviceFunction
from pci.header import HeaderType

_HEADER_TYPE: Final = 0x0E
_HEADER_MASKS: Final = {
    0x04: bytes([0xFF, 0x07]),  # command
    0x0C: bytes([0xFF]),  # cache line size
    0x18: bytes([0xFF] * 4),  # bus numbers, latency timer
    0x20: bytes([0xF0, 0xFF, 0xF0, 0xFF]),  # memory window
    0x3C: bytes([0xFF, 0, 0xFF, 0x0F]),  # interrupt line, bridge control
}
_IO_MASKS: Final = {0x1C: bytes([0xF0, 0xF0])}
_IO_WIDE_MASKS: Final = {0x30: bytes([0xFF] * 4)}
_PREFETCHABLE_MASKS: Final = {0x24: bytes([0xF0, 0xFF, 0xF0, 0xFF]), 0x28: bytes([0xFF] * 8)}

_ENABLE: Final = 1 << 31

Place = tuple[int, int]
"""Device and function number on a bus."""


class FakeBridge(BytesConfigAccess):
    """A PCI-to-PCI bridge with nothing set up. `behind` is what is on the bus behind it, by device and function.

    `io` is how many bits of I/O addresses it passes on: 32, 16, or 0 for no I/O window. `prefetchable`: it has a
    window of 64 bits.
    """

    def __init__(
        self,
        behind: Mapping[Place, BytesConfigAccess],
        *,
        io: int = 32,
        prefetchable: bool = True,
        name: str = "fake bridge",
    ) -> None:
        super().__init__(bytes(0x100), {}, name)
        self.behind = dict(behind)
        self.poke(0, bytes.fromhex("361b0c00 00000000 00000406"))  # ids; class: bridge, PCI to PCI
        self.poke(_HEADER_TYPE, bytes([HeaderType.PciPciBridge]))
        self._open(_HEADER_MASKS)
        if io:
            self._open(_IO_MASKS)
        if io == 32:
            self._open(_IO_WIDE_MASKS)
            self.poke(0x1C, b"\x01\x01")
        if prefetchable:
            self._open(_PREFETCHABLE_MASKS)
            self.poke(0x24, b"\x01\x00\x01\x00")

    @property
    def buses(self) -> range:
        """The buses that configuration accesses are passed on to."""
        secondary, subordinate = self.data[BUS_NUMBERS_OFFSET + 1], self.data[BUS_NUMBERS_OFFSET + 2]
        return range(secondary, subordinate + 1) if secondary else range(0)

    def _open(self, masks: Mapping[int, bytes]) -> None:
        for offset, mask in masks.items():
            self.write_masks[offset : offset + len(mask)] = mask


class FakeBusAccess:
    """A fake root complex with bus 0 and what is behind its bridges. Two bridges that answer for one bus are an
    AssertionError: on a real bus both would drive it."""

    def __init__(self, functions: Mapping[Place, BytesConfigAccess]) -> None:
        self.functions = dict(functions)

    def config(self, function: DeviceFunction) -> ConfigAccess:
        return _RoutedFunction(self, function)

    def route(self, function: DeviceFunction) -> ConfigAccess:
        """The function that answers at an address now, or an absent one."""
        absent = AbsentConfigAccess(function)
        if function.domain:
            return absent
        here, number = self.functions, 0
        while number != function.bus:
            bridges = [fake for fake in here.values() if isinstance(fake, FakeBridge) and function.bus in fake.buses]
            if not bridges:
                return absent
            assert len(bridges) == 1, f"{len(bridges)} bridges pass on accesses to bus {function.bus:#x}"
            here, number = bridges[0].behind, bridges[0].buses.start
        return here.get((function.device, function.function), absent)


class _RoutedFunction:
    """An address, looked up at each access: bus numbers change."""

    def __init__(self, bus: FakeBusAccess, function: DeviceFunction) -> None:
        self._bus = bus
        self._function = function

    def __str__(self) -> str:
        return str(self._function)

    @property
    def size(self) -> int:
        return self._bus.route(self._function).size

    def read(self, offset: int, width: int) -> int:
        return self._bus.route(self._function).read(offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        self._bus.route(self._function).write(offset, width, value)


class FakeRegisters:
    """Registers whose accesses go to `read(offset, width)` and `write(offset, width, value)`; `accesses` lists them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.accesses: list[tuple[str, int, int]] = []

    def read8(self, offset: int) -> int:
        return self._record_read(offset, 1)

    def read16(self, offset: int) -> int:
        return self._record_read(offset, 2)

    def read32(self, offset: int) -> int:
        return self._record_read(offset, 4)

    def write8(self, offset: int, value: int) -> None:
        self._record_write(offset, 1, value)

    def write16(self, offset: int, value: int) -> None:
        self._record_write(offset, 2, value)

    def write32(self, offset: int, value: int) -> None:
        self._record_write(offset, 4, value)

    def read(self, offset: int, width: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, width: int, value: int) -> None:
        raise NotImplementedError

    def _record_read(self, offset: int, width: int) -> int:
        self._check("read", offset, width)
        return self.read(offset, width)

    def _record_write(self, offset: int, width: int, value: int) -> None:
        self._check("write", offset, width)
        self.write(offset, width, value)

    def _check(self, verb: str, offset: int, width: int) -> None:
        assert 0 <= offset <= self.size - width, f"{width} bytes at {offset:#x} of {self.size:#x}"
        assert offset % width == 0, f"{width} bytes at {offset:#x}"
        self.accesses.append((verb, offset, width))


class FakeCam(FakeRegisters):
    """The region of a configuration access mechanism over a fake root complex; `buses` of them."""

    def __init__(self, root: RootAccess, cam: Cam, buses: int = 256) -> None:
        super().__init__((cam.size >> 8) * buses)
        self._root = root
        self._cam = cam

    def read(self, offset: int, width: int) -> int:
        access, register = self._find(offset)
        # A function with 256 bytes in a place of 4096 reads as zeros behind them.
        return access.read(register, width) if register < access.size else 0

    def write(self, offset: int, width: int, value: int) -> None:
        access, register = self._find(offset)
        if register < access.size:
            access.write(register, width, value)

    def _find(self, offset: int) -> tuple[ConfigAccess, int]:
        number, register = divmod(offset, self._cam.config_size)
        return self._root.config(_function_of(number)), register


class FakePorts(FakeRegisters):
    """The 8 bytes at port 0xcf8 over a fake root complex; only an access of 32 bits changes the address."""

    def __init__(self, root: RootAccess) -> None:
        super().__init__(8)
        self.address = 0
        self._root = root

    def read(self, offset: int, width: int) -> int:
        if offset < 4:
            return self.address if width == 4 else (1 << 8 * width) - 1
        if not self.address & _ENABLE:
            return (1 << 8 * width) - 1
        return self._selected().read((self.address & 0xFC) + offset - 4, width)

    def write(self, offset: int, width: int, value: int) -> None:
        if offset < 4:
            assert width == 4, "the address register takes 32 bits only (PCI 3.0, 3.2.2.3.2)"
            assert value & 0x7F00_0003 == 0, f"reserved bits of the address register were written: {value:#x}"
            self.address = value
        elif self.address & _ENABLE:
            self._selected().write((self.address & 0xFC) + offset - 4, width, value)

    def _selected(self) -> ConfigAccess:
        return self._root.config(_function_of(self.address >> 8 & 0xFFFF))


def _function_of(number: int) -> DeviceFunction:
    return DeviceFunction(number >> 8, number >> 3 & 31, number & 7)
