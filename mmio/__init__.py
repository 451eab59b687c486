"""Device registers with accesses of an exact width.

A `Region` is a run of registers: mapped memory (`MappedFile`, `DevMemWindow`), a file read and written by offset
(`FdRegion`), part of another region (`Window`), or a fake (`FakeRegion`). A `UniqueMmioPointer` is the only owner of
one. One `read32` is one bus access of 32 bits, always; the order of a 64-bit access made of two is in its name. A
`RegisterBlock` names the registers of a layout and says which may be read and which written.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmio._access import MappedRegion
    from mmio.devmem import DevMemWindow
    from mmio.errors import (
        MisalignedAccess,
        MmioError,
        RegionBoundsError,
        RegionClosed,
        RegionGone,
        RegionInUse,
        RegionReadOnly,
        ValueRangeError,
    )
    from mmio.fake import FakeRegion
    from mmio.file import FdRegion, MappedFile
    from mmio.log import Access, LoggingRegion
    from mmio.memory import address_of, mapped_address
    from mmio.region import Region, RegionBase, Window, read_exact, write_exact
    from mmio.register import (
        ReadOnly8,
        ReadOnly16,
        ReadOnly32,
        ReadOnly64,
        ReadOnly64HiLo,
        ReadOnly64LoHi,
        ReadWrite8,
        ReadWrite16,
        ReadWrite32,
        ReadWrite64,
        ReadWrite64HiLo,
        ReadWrite64LoHi,
        RegisterBlock,
        WriteOnly8,
        WriteOnly16,
        WriteOnly32,
        WriteOnly64,
        WriteOnly64HiLo,
        WriteOnly64LoHi,
    )
    from mmio.unique import UniqueMmioPointer

# Imported when they are first used: a command needs few of these, and an emulated guest takes long over each.
_HOMES = {
    "Access": "mmio.log",
    "DevMemWindow": "mmio.devmem",
    "FakeRegion": "mmio.fake",
    "FdRegion": "mmio.file",
    "LoggingRegion": "mmio.log",
    "MappedFile": "mmio.file",
    "MappedRegion": "mmio._access",
    "MisalignedAccess": "mmio.errors",
    "MmioError": "mmio.errors",
    "ReadOnly16": "mmio.register",
    "ReadOnly32": "mmio.register",
    "ReadOnly64": "mmio.register",
    "ReadOnly64HiLo": "mmio.register",
    "ReadOnly64LoHi": "mmio.register",
    "ReadOnly8": "mmio.register",
    "ReadWrite16": "mmio.register",
    "ReadWrite32": "mmio.register",
    "ReadWrite64": "mmio.register",
    "ReadWrite64HiLo": "mmio.register",
    "ReadWrite64LoHi": "mmio.register",
    "ReadWrite8": "mmio.register",
    "Region": "mmio.region",
    "RegionBase": "mmio.region",
    "RegionBoundsError": "mmio.errors",
    "RegionClosed": "mmio.errors",
    "RegionGone": "mmio.errors",
    "RegionInUse": "mmio.errors",
    "RegionReadOnly": "mmio.errors",
    "RegisterBlock": "mmio.register",
    "UniqueMmioPointer": "mmio.unique",
    "ValueRangeError": "mmio.errors",
    "Window": "mmio.region",
    "WriteOnly16": "mmio.register",
    "WriteOnly32": "mmio.register",
    "WriteOnly64": "mmio.register",
    "WriteOnly64HiLo": "mmio.register",
    "WriteOnly64LoHi": "mmio.register",
    "WriteOnly8": "mmio.register",
    "address_of": "mmio.memory",
    "mapped_address": "mmio.memory",
    "read_exact": "mmio.region",
    "write_exact": "mmio.region",
}

__all__ = [
    "Access",
    "DevMemWindow",
    "FakeRegion",
    "FdRegion",
    "LoggingRegion",
    "MappedFile",
    "MappedRegion",
    "MisalignedAccess",
    "MmioError",
    "ReadOnly8",
    "ReadOnly16",
    "ReadOnly32",
    "ReadOnly64",
    "ReadOnly64HiLo",
    "ReadOnly64LoHi",
    "ReadWrite8",
    "ReadWrite16",
    "ReadWrite32",
    "ReadWrite64",
    "ReadWrite64HiLo",
    "ReadWrite64LoHi",
    "Region",
    "RegionBase",
    "RegionBoundsError",
    "RegionClosed",
    "RegionGone",
    "RegionInUse",
    "RegionReadOnly",
    "RegisterBlock",
    "UniqueMmioPointer",
    "ValueRangeError",
    "Window",
    "WriteOnly8",
    "WriteOnly16",
    "WriteOnly32",
    "WriteOnly64",
    "WriteOnly64HiLo",
    "WriteOnly64LoHi",
    "address_of",
    "mapped_address",
    "read_exact",
    "write_exact",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
