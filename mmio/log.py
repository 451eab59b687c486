"""A region that writes down every bus access on its way to another region."""

from __future__ import annotations

from typing import Literal, NamedTuple

from mmio.region import Region, RegionBase, read_exact, write_exact


class Access(NamedTuple):
    """One bus access: offset and width in bytes, and the value read or written."""

    op: Literal["read", "write"]
    offset: int
    width: int
    value: int


class LoggingRegion(RegionBase):
    """Stands in for `inner`, and appends an `Access` to `log` for each bus access that it made.

    A `lo_hi` or `hi_lo` access is two entries of 32 bits. An access that `inner` refused is not in the log. Closing
    it closes `inner`.
    """

    def __init__(self, inner: Region) -> None:
        super().__init__(inner.size, base=None)
        self.inner = inner
        self.log: list[Access] = []

    def close(self) -> None:
        super().close()
        self.inner.close()

    def _read(self, offset: int, width: int) -> int:
        value = read_exact(self.inner, offset, width)
        self.log.append(Access("read", offset, width, value))
        return value

    def _write(self, offset: int, width: int, value: int) -> None:
        write_exact(self.inner, offset, width, value)
        self.log.append(Access("write", offset, width, value))
