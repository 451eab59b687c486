"""The address of a PCI function: domain, bus, device, function."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Final

from pci.errors import PciError

_TEXT: Final = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-9a-fA-F])")

_LIMITS: Final = {"bus": 256, "device": 32, "function": 8, "domain": 1 << 32}


@total_ordering
@dataclass(frozen=True)
class DeviceFunction:
    """One function of one device: `bus` 0 to 255, `device` 0 to 31, `function` 0 to 7, `domain` 32 bits.

    Sorts by domain, bus, device, function. Raises PciError (EINVAL) for a part that is out of its range.
    """

    bus: int
    device: int
    function: int
    domain: int = 0

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value < limit:
                raise PciError("PCI address", f"the {name} is out of range", value, f"use 0 to {limit - 1:#x}")

    @classmethod
    def parse(cls, text: str) -> DeviceFunction:
        """From `0000:00:05.0`, or `00:05.0` for domain 0; all digits are hexadecimal.

        Raises PciError (EINVAL) for any other text and for numbers out of range.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            remedy = "write it as domain:bus:device.function, for instance 0000:00:05.0"
            raise PciError("PCI address", "not an address", repr(text), remedy)
        domain, bus, device, function = (int(part or "0", 16) for part in match.groups())
        return cls(bus, device, function, domain)

    @property
    def short(self) -> str:
        """Without the domain: `00:05.0`."""
        return f"{self.bus:02x}:{self.device:02x}.{self.function:x}"

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.short}"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, DeviceFunction):
            return NotImplemented
        return self._key() < other._key()

    def _key(self) -> tuple[int, int, int, int]:
        return self.domain, self.bus, self.device, self.function
