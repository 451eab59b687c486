"""What can go wrong with a register access, each with the numbers that were refused."""

from __future__ import annotations

import errno
from typing import Any


class MmioError(OSError):
    """A register access or a mapping failed; `errno` is the kernel's where the kernel refused it."""


class RegionBoundsError(MmioError):
    """The bytes asked for are not all inside the region; nothing was accessed (EINVAL).

    `offset`, `width` and `size` are in bytes; `offset` and `width` may be any integers, negative ones included.
    """

    def __init__(self, offset: int, width: int, size: int, what: str = "register access") -> None:
        self.offset, self.width, self.size, self.what = offset, width, size, what
        super().__init__(errno.EINVAL, _bounds_text(offset, width, size, what))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.offset, self.width, self.size, self.what)


class MisalignedAccess(MmioError):
    """The access is not aligned to its own width on the bus; nothing was accessed (EINVAL).

    `base` is where the region itself starts: the sum of `base` and `offset` must be a multiple of `alignment`.
    """

    def __init__(self, offset: int, alignment: int, base: int = 0) -> None:
        self.offset, self.alignment, self.base = offset, alignment, base
        where = f"offset {offset:#x}" + (f" of a region that starts at {base:#x}" if base % alignment else "")
        text = f"register access at {where} is not aligned to {alignment} bytes: use narrower accesses there"
        super().__init__(errno.EINVAL, text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.offset, self.alignment, self.base)


class ValueRangeError(MmioError):
    """The value does not fit the width of the register; nothing was written (EINVAL). `width` is in bytes."""

    def __init__(self, value: int, width: int) -> None:
        self.value, self.width = value, width
        limit = (1 << 8 * width) - 1
        text = f"value {value:#x} does not fit a register of {width} bytes: use 0 to {limit:#x}"
        super().__init__(errno.EINVAL, text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.value, self.width)


class RegionClosed(MmioError):
    """The region was closed, or never opened; nothing was accessed (EBADF)."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(errno.EBADF, f"{subject} is closed: open it again before touching its registers")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.subject,)


class RegionReadOnly(MmioError):
    """The region was mapped for reading only; nothing was written (EACCES)."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(errno.EACCES, f"{subject} is mapped read-only: open it with writable=True to write registers")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.subject,)


class RegionGone(MmioError):
    """Nothing answers behind the mapping: the device was removed, or does not decode its addresses (ENODEV)."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        text = f"nothing answers behind {subject}: the device is gone, or its memory decoding is off (lspci shows both)"
        super().__init__(errno.ENODEV, text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.subject,)


class RegionInUse(MmioError):
    """A part of the range has an owner in this process already; nothing was opened (EBUSY)."""

    def __init__(self, wanted: range, held: range) -> None:
        self.wanted, self.held = wanted, held
        text = f"{_span(wanted)} cannot have a second owner: {_span(held)} are open; close them first"
        super().__init__(errno.EBUSY, text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.wanted, self.held)


def _span(addresses: range) -> str:
    return f"registers {addresses.start:#x} to {addresses.stop - 1:#x}"


def _bounds_text(offset: int, width: int, size: int, what: str) -> str:
    """The sentence, with the offsets that would have been right where there are any."""
    text = f"{what} of {width} bytes at offset {offset:#x} is outside the {size:#x} bytes there are"
    if 0 < width <= size:
        return f"{text}: use an offset from 0 to {size - width:#x}"
    return f"{text}: check the size it was opened with"
