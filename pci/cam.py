"""Configuration space as memory: each function has its own bytes in a region (PCI Express 4.0, 7.2.2, for ECAM)."""

from __future__ import annotations

from enum import Enum
from typing import Final

from pci.access import CONFIG_SIZE, EXTENDED_CONFIG_SIZE, check_access, check_value
from pci.errors import ConfigAccessError
from pci.function import DeviceFunction
from pci.registers import Registers, read_register, write_register

_FUNCTIONS: Final = 1 << 16
"""Functions of one domain: 256 buses of 32 devices of 8 functions."""


class Cam(Enum):
    """A configuration access mechanism: how many bytes of the region each function has."""

    MmioCam = CONFIG_SIZE
    """256 bytes a function, as in conventional PCI."""
    Ecam = EXTENDED_CONFIG_SIZE
    """4096 bytes a function: the enhanced mechanism of PCI Express."""

    @property
    def config_size(self) -> int:
        """Bytes of configuration space that a function has."""
        return self.value

    @property
    def size(self) -> int:
        """Bytes of the region of a whole domain: 0x1000000 or 0x10000000."""
        return _FUNCTIONS * self.value

    def cam_offset(self, device_function: DeviceFunction, register_offset: int) -> int:
        """Where a register is in the region. Raises ConfigAccessError (EINVAL) for one that a function does not have.

        The domain does not count: each has a region of its own.
        """
        if not 0 <= register_offset < self.config_size:
            problem = f"{self.name} has {self.config_size:#x} bytes a function, and no register at offset"
            raise ConfigAccessError(device_function, problem, register_offset)
        number = device_function.bus << 8 | device_function.device << 3 | device_function.function
        return number * self.config_size + register_offset


class CamAccess:
    """Every function of the domain whose region this is; `region` starts with bus 0 and stays the caller's.

    A region may end early, where the host has fewer buses. Raises ConfigAccessError (EINVAL) for a function behind its
    end and for other domains than 0. An access is one access of the same width to the region.
    """

    def __init__(self, region: Registers, cam: Cam = Cam.Ecam) -> None:
        self._region = region
        self._cam = cam

    @property
    def buses(self) -> int:
        """How many buses the region has in full."""
        return min(self._region.size, self._cam.size) // (self._cam.size >> 8)

    def config(self, function: DeviceFunction) -> CamFunction:
        check_domain(function, self._cam.name)
        start = self._cam.cam_offset(function, 0)
        if start + self._cam.config_size > self._region.size:
            problem = f"its place in {self._cam.name} is behind the {self._region.size:#x} bytes of the region"
            raise ConfigAccessError(function, problem, start, "map more of it, or walk fewer buses")
        return CamFunction(self._region, function, start, self._cam.config_size)


class CamFunction:
    """The `size` bytes of one function, from `start` of a region."""

    def __init__(self, region: Registers, function: DeviceFunction, start: int, size: int) -> None:
        self._region = region
        self._function = function
        self._start = start
        self._size = size

    def __str__(self) -> str:
        return str(self._function)

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, width: int) -> int:
        check_access(self, offset, width)
        return read_register(self._region, self._start + offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        check_access(self, offset, width)
        check_value(self, width, value)
        write_register(self._region, self._start + offset, width, value)


def check_domain(function: DeviceFunction, what: str) -> None:
    """Raises ConfigAccessError (EINVAL) for a function outside domain 0, the only one that `what` reaches."""
    if function.domain:
        raise ConfigAccessError(function, f"{what} reaches one domain, and this is another", function.domain)
