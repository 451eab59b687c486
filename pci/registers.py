"""What configuration mechanisms need of a run of registers; any region with these accesses will do."""

from __future__ import annotations

from typing import Protocol


class Registers(Protocol):
    """Registers by offset in bytes; each method is one bus access of that many bits, little-endian."""

    @property
    def size(self) -> int:
        """Bytes in the region."""

    def read8(self, offset: int, /) -> int: ...
    def read16(self, offset: int, /) -> int: ...
    def read32(self, offset: int, /) -> int: ...
    def write8(self, offset: int, value: int, /) -> None: ...
    def write16(self, offset: int, value: int, /) -> None: ...
    def write32(self, offset: int, value: int, /) -> None: ...


def read_register(registers: Registers, offset: int, width: int) -> int:
    """One access of `width` bytes (1, 2 or 4; KeyError otherwise)."""
    return {1: registers.read8, 2: registers.read16, 4: registers.read32}[width](offset)


def write_register(registers: Registers, offset: int, width: int, value: int) -> None:
    """One access of `width` bytes (1, 2 or 4; KeyError otherwise)."""
    {1: registers.write8, 2: registers.write16, 4: registers.write32}[width](offset, value)
