"""How the bytes of a function's configuration space are reached, and the rule that every way keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from pci.errors import ConfigAccessError

if TYPE_CHECKING:
    from pci.function import DeviceFunction

CONFIG_SIZE: Final = 0x100
"""Bytes of configuration space in conventional PCI."""

EXTENDED_CONFIG_SIZE: Final = 0x1000
"""Bytes of configuration space in PCI Express."""

WIDTHS: Final = (1, 2, 4)


class ConfigAccess(Protocol):
    """The configuration space of one function. `str()` of it is the subject of errors, so make that a name."""

    @property
    def size(self) -> int:
        """Bytes, at most 0x1000."""

    def read(self, offset: int, width: int) -> int:
        """One access of `width` bytes (1, 2 or 4), little-endian. Raises ConfigAccessError."""

    def write(self, offset: int, width: int, value: int) -> None:
        """One access of `width` bytes (1, 2 or 4), little-endian. Raises ConfigAccessError."""


class RootAccess(Protocol):
    """The configuration spaces of every function below a root complex."""

    def config(self, function: DeviceFunction) -> ConfigAccess:
        """The space of a function; one that is not there reads as ones, as it does on the bus. Touches nothing."""


class AbsentConfigAccess:
    """What the bus shows where no function is: reads give ones, writes are lost (PCI 3.0, 6.1)."""

    size = CONFIG_SIZE

    def __init__(self, function: DeviceFunction) -> None:
        self._function = function

    def __str__(self) -> str:
        return str(self._function)

    def read(self, offset: int, width: int) -> int:
        check_access(self, offset, width)
        return (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        check_access(self, offset, width)


def check_access(access: ConfigAccess, offset: int, width: int) -> None:
    """Raises ConfigAccessError (EINVAL) for an access that is not 1, 2 or 4 bytes, aligned and inside the space."""
    if width not in WIDTHS:
        raise ConfigAccessError(access, "no access is that many bytes wide", str(width), "use 1, 2 or 4")
    if offset % width:
        problem = f"an access of {width} bytes is not aligned at offset"
        raise ConfigAccessError(access, problem, offset, "use narrower accesses there")
    if not 0 <= offset <= access.size - width:
        problem = f"an access of {width} bytes is outside the {access.size:#x} bytes of configuration space, at offset"
        raise ConfigAccessError(access, problem, offset, f"use offsets up to {access.size - width:#x}")


def check_value(subject: object, width: int, value: int) -> None:
    """Raises ConfigAccessError (EINVAL) for a value that does not fit `width` bytes."""
    if not 0 <= value < 1 << 8 * width:
        raise ConfigAccessError(subject, f"the value does not fit {width} bytes", value)
