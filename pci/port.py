"""Configuration space through two I/O ports of a PC: configuration mechanism #1 (PCI 3.0, 3.2.2.3.2)."""

from __future__ import annotations

import threading
from typing import Final

from pci.access import CONFIG_SIZE, check_access, check_value
from pci.cam import check_domain
from pci.errors import ConfigAccessError
from pci.function import DeviceFunction
from pci.registers import Registers, read_register, write_register

CONFIG_PORT: Final = 0xCF8
"""The I/O port where both registers start; they are 8 bytes."""

_ADDRESS: Final = 0
_DATA: Final = 4
_PORTS_SIZE: Final = 8
_ENABLE: Final = 1 << 31


class PortAccess:
    """Every function of the domain; `ports` are the 8 bytes at port 0xcf8 and stay the caller's.

    An access is two: the address, always 32 bits, then the data in the width asked for. A lock keeps the two together
    among our threads; nothing keeps a kernel away that uses the same ports, so only use this where none runs. The
    enable bit stays set afterwards, as firmware and kernels leave it: the next access writes the address
    anyway, and clearing it would be one access more each time.

    Raises ConfigAccessError (EINVAL) for ports that are too few, and for other domains than 0.
    """

    def __init__(self, ports: Registers) -> None:
        if ports.size < _PORTS_SIZE:
            problem = f"the address and the data register are {_PORTS_SIZE} bytes, and the region has"
            raise ConfigAccessError(f"ports {CONFIG_PORT:#x}", problem, ports.size)
        self._ports = ports
        self._lock = threading.Lock()

    def config(self, function: DeviceFunction) -> PortFunction:
        check_domain(function, "configuration mechanism #1")
        return PortFunction(self._ports, self._lock, function)


class PortFunction:
    """The 256 bytes of one function, behind the two ports."""

    size: Final = CONFIG_SIZE

    def __init__(self, ports: Registers, lock: threading.Lock, function: DeviceFunction) -> None:
        self._ports = ports
        self._lock = lock
        self._function = function
        self._address = _ENABLE | function.bus << 16 | function.device << 11 | function.function << 8

    def __str__(self) -> str:
        return str(self._function)

    def read(self, offset: int, width: int) -> int:
        check_access(self, offset, width)
        with self._lock:
            return read_register(self._ports, self._select(offset), width)

    def write(self, offset: int, width: int, value: int) -> None:
        check_access(self, offset, width)
        check_value(self, width, value)
        with self._lock:
            write_register(self._ports, self._select(offset), width, value)

    def _select(self, offset: int) -> int:
        """Point the data register at four bytes; where in it the access goes."""
        self._ports.write32(_ADDRESS, self._address | offset & 0xFC)
        return _DATA + offset % 4
