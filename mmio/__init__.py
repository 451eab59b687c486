"""Device registers with accesses of an exact width.

A `Region` is a run of registers: mapped memory (`MappedFile`, `DevMemWindow`), a file read and written by offset
(`FdRegion`), part of another region (`Window`), or a fake (`FakeRegion`). A `UniqueMmioPointer` is the only owner of
one. One `read32` is one bus access of 32 bits, always; the order of a 64-bit access made of two is in its name. A
`RegisterBlock` names the registers of a layout and says which may be read and which written.
"""

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
