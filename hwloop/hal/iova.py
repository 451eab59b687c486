"""Chooses the addresses at which the device sees our memory."""

from __future__ import annotations

from collections.abc import Iterable

from hwloop.errors import DmaError

LOWEST_IOVA = 0x10_0000
"""Nothing is ever mapped below: a device address of 0, or near it, is a bug, and faults in the IOMMU."""


class IovaAllocator:
    """Hands out device addresses inside the ranges that the IOMMU can map.

    `ranges` are (first, last) addresses, both inclusive, as VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE gives them: holes
    between them (the MSI window, reserved memory) are never handed out. First fit from below.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._ranges = sorted((max(first, LOWEST_IOVA), last) for first, last in ranges if last >= LOWEST_IOVA)
        self._used: dict[int, int] = {}

    def allocate(self, size: int, align: int) -> int:
        """The first address of `size` bytes, a multiple of `align` (a power of two). Raises DmaError."""
        for first, last in self._ranges:
            address = self._fit(first, last, size, align)
            if address is not None:
                self._used[address] = size
                return address
        raise DmaError(
            f"no {size:#x} bytes of device address space are free in {self.describe()}",
            remedy="use a smaller queue or fewer requests at once",
        )

    def release(self, address: int) -> None:
        """Raises DmaError for an address that was not handed out."""
        if self._used.pop(address, None) is None:
            raise DmaError(f"device address {address:#x} was not handed out")

    def describe(self) -> str:
        return ", ".join(f"{first:#x}-{last:#x}" for first, last in self._ranges) or "no range at all"

    def _fit(self, first: int, last: int, size: int, align: int) -> int | None:
        address = _round_up(first, align)
        for used, length in sorted(self._used.items()):
            if used + length <= address:
                continue
            if used >= address + size:
                break
            address = _round_up(used + length, align)
        return address if address + size - 1 <= last else None


def _round_up(value: int, align: int) -> int:
    return (value + align - 1) & -align
