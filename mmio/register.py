"""Registers by name: a class lists them once, with width and direction, and an instance reads and writes them.

    class CommonConfig(RegisterBlock):
        device_feature_select = ReadWrite32(0x00)
        device_feature = ReadOnly32(0x04)
        queue_desc = ReadWrite64LoHi(0x20)

    block = CommonConfig(region)
    block.device_feature_select.write(1)
    features = block.device_feature.read()

A register that the device only offers has no `write`, and one that it only takes has no `read`, for type checkers as
at run time. Assigning to a register is an error: it would read as if the value stayed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Generic, Never, NoReturn, Self, TypeVar, overload

from mmio.region import Region


@dataclass(frozen=True)
class Form:
    """How a register is accessed: its bytes, the alignment its accesses need, and the Region methods that do it."""

    width: int
    alignment: int
    read: Callable[[Region, int], int]
    write: Callable[[Region, int, int], None]


BITS_8 = Form(1, 1, lambda region, at: region.read8(at), lambda region, at, v: region.write8(at, v))
BITS_16 = Form(2, 2, lambda region, at: region.read16(at), lambda region, at, v: region.write16(at, v))
BITS_32 = Form(4, 4, lambda region, at: region.read32(at), lambda region, at, v: region.write32(at, v))
BITS_64 = Form(8, 8, lambda region, at: region.read64(at), lambda region, at, v: region.write64(at, v))
LO_HI = Form(8, 4, lambda region, at: region.read64_lo_hi(at), lambda region, at, v: region.write64_lo_hi(at, v))
HI_LO = Form(8, 4, lambda region, at: region.read64_hi_lo(at), lambda region, at, v: region.write64_hi_lo(at, v))


class BoundRegister:
    """One register of one block. `offset` and `width` are in bytes."""

    __slots__ = ("_declared", "_region")

    def __init__(self, region: Region, declared: Declared[Any]) -> None:
        self._region = region
        self._declared = declared

    @property
    def name(self) -> str:
        return self._declared.name

    @property
    def offset(self) -> int:
        return self._declared.offset

    @property
    def width(self) -> int:
        return self._declared.width

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self.offset:#x}, {8 * self.width} bits>"


class Readable(BoundRegister):
    """A register that can be read."""

    __slots__ = ()

    def read(self) -> int:
        """Read the device's register. Raises what the region raises: RegionBoundsError when it is too small."""
        return self._declared.form.read(self._region, self._declared.offset)


class Writable(BoundRegister):
    """A register that can be written."""

    __slots__ = ()

    def write(self, value: int) -> None:
        """Write the device's register. Raises what the region raises: ValueRangeError when it does not fit."""
        self._declared.form.write(self._region, self._declared.offset, value)


class ReadableWritable(Readable, Writable):
    """A register that can be read and written."""

    __slots__ = ()


BoundT = TypeVar("BoundT", bound=BoundRegister)


class Declared(Generic[BoundT]):
    """A register as a class lists it: `offset` in bytes, `form`, and the name of the attribute it was given to."""

    form: ClassVar[Form]
    bound: type[BoundT]

    def __init_subclass__(cls, form: Form | None = None) -> None:
        if form is not None:
            cls.form = form

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.name = ""

    def __set_name__(self, owner: type[RegisterBlock], name: str) -> None:
        self.name = name

    @property
    def width(self) -> int:
        """Bytes."""
        return self.form.width

    @property
    def end(self) -> int:
        """The offset of the first byte behind it."""
        return self.offset + self.form.width

    @property
    def readable(self) -> bool:
        return issubclass(self.bound, Readable)

    @property
    def writable(self) -> bool:
        return issubclass(self.bound, Writable)

    @overload
    def __get__(self, block: None, owner: type[RegisterBlock]) -> Self: ...
    @overload
    def __get__(self, block: RegisterBlock, owner: type[RegisterBlock]) -> BoundT: ...
    def __get__(self, block: RegisterBlock | None, owner: type[RegisterBlock]) -> Self | BoundT:
        return self if block is None else self.bound(block.region, self)

    def __set__(self, block: RegisterBlock, value: Never) -> NoReturn:
        how = f"use .{self.name}.write(value)" if self.writable else "the device only offers it for reading"
        raise AttributeError(f"register {self.name} cannot be assigned to: {how}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.offset:#x})"


class ReadOnly(Declared[Readable]):
    """The driver may only read it."""

    bound = Readable


class WriteOnly(Declared[Writable]):
    """The driver may only write it."""

    bound = Writable


class ReadWrite(Declared[ReadableWritable]):
    """The driver may read and write it."""

    bound = ReadableWritable


class ReadOnly8(ReadOnly, form=BITS_8): ...


class ReadOnly16(ReadOnly, form=BITS_16): ...


class ReadOnly32(ReadOnly, form=BITS_32): ...


class ReadOnly64(ReadOnly, form=BITS_64): ...


class ReadOnly64LoHi(ReadOnly, form=LO_HI): ...


class ReadOnly64HiLo(ReadOnly, form=HI_LO): ...


class WriteOnly8(WriteOnly, form=BITS_8): ...


class WriteOnly16(WriteOnly, form=BITS_16): ...


class WriteOnly32(WriteOnly, form=BITS_32): ...


class WriteOnly64(WriteOnly, form=BITS_64): ...


class WriteOnly64LoHi(WriteOnly, form=LO_HI): ...


class WriteOnly64HiLo(WriteOnly, form=HI_LO): ...


class ReadWrite8(ReadWrite, form=BITS_8): ...


class ReadWrite16(ReadWrite, form=BITS_16): ...


class ReadWrite32(ReadWrite, form=BITS_32): ...


class ReadWrite64(ReadWrite, form=BITS_64): ...


class ReadWrite64LoHi(ReadWrite, form=LO_HI): ...


class ReadWrite64HiLo(ReadWrite, form=HI_LO): ...


class RegisterBlock:
    """The registers of one layout, on a region that starts where the layout does.

    Declaring registers that overlap, are not aligned to their accesses or hide an attribute of this class raises
    TypeError when the class is made. One register to read and one to write may share a place. A region shorter than
    `span` is fine until a register beyond its end is used: that raises RegionBoundsError.
    """

    span: ClassVar[int] = 0
    """Bytes a region needs so that every declared register is inside."""

    _declared: ClassVar[tuple[Declared[Any], ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._declared = _collect(cls)
        cls.span = max((register.end for register in cls._declared), default=0)
        _check_layout(cls)

    def __init__(self, region: Region) -> None:
        self._region = region

    @property
    def region(self) -> Region:
        return self._region

    @classmethod
    def registers(cls) -> tuple[Declared[Any], ...]:
        """The declared registers, inherited ones included, by offset. Reading one may have effects on the device."""
        return cls._declared


def _collect(block: type[RegisterBlock]) -> tuple[Declared[Any], ...]:
    found = (getattr(block, name) for name in dir(block))
    return tuple(sorted((item for item in found if isinstance(item, Declared)), key=lambda item: item.offset))


def _check_layout(block: type[RegisterBlock]) -> None:
    for register in block._declared:
        if register.name in dir(RegisterBlock):
            raise TypeError(f"{block.__name__}.{register.name} hides an attribute of RegisterBlock: rename it")
        if register.offset < 0 or register.offset % register.form.alignment:
            where = f"{register.offset:#x}, which is not a multiple of {register.form.alignment} bytes"
            raise TypeError(f"{block.__name__}.{register.name} is at {where}")
    for first, second in combinations(block._declared, 2):
        if first.end > second.offset and not _share_a_place(first, second):
            raise TypeError(f"{block.__name__}: {first.name} ({first!r}) and {second.name} ({second!r}) overlap")


def _share_a_place(first: Declared[Any], second: Declared[Any]) -> bool:
    """One to read, one to write, both the same bytes: what hardware often does with a command and a status."""
    same = first.offset == second.offset and first.width == second.width
    return same and first.readable != second.readable and first.writable != second.writable
