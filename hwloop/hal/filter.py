"""A Hal in front of another one: what every filter of memory, registers and interrupts starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwloop.hal.base import BufferDirection, Hal
from hwloop.hal.interrupt import Interrupt
from hwloop.spec import PhysAddr

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from mmio import Region


class HalFilter(Hal):
    """Passes everything on to `inner`. A filter overrides what it wants to see or to change.

    What `Hal` offers is written out, and a test keeps it complete; what only one back end has is looked up there.
    """

    def __init__(self, inner: Hal) -> None:
        self.inner = inner
        self.name = inner.name

    def __getattr__(self, name: str) -> Any:
        # Only for what is not found here.
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def dma_alloc(self, pages: int, direction: BufferDirection) -> tuple[PhysAddr, int]:
        return self.inner.dma_alloc(pages, direction)

    def dma_dealloc(self, paddr: PhysAddr, vaddr: int, pages: int) -> int:
        return self.inner.dma_dealloc(paddr, vaddr, pages)

    def mmio_phys_to_virt(self, paddr: PhysAddr, size: int, *, hot: bool = False) -> Region:
        return self.inner.mmio_phys_to_virt(paddr, size, hot=hot)

    def port_region(self, port: int, size: int) -> Region:
        return self.inner.port_region(port, size)

    def share(self, buffer: Buffer, direction: BufferDirection) -> PhysAddr:
        return self.inner.share(buffer, direction)

    def unshare(self, paddr: PhysAddr, buffer: Buffer, direction: BufferDirection) -> None:
        self.inner.unshare(paddr, buffer, direction)

    def register(self, buffer: Buffer) -> PhysAddr:
        return self.inner.register(buffer)

    def unregister(self, paddr: PhysAddr) -> None:
        self.inner.unregister(paddr)

    def interrupt(self, vector: int | None = None) -> Interrupt | None:
        return self.inner.interrupt(vector)

    def vectors(self, wanted: int) -> int:
        return self.inner.vectors(wanted)

    def check_address(self, paddr: int, length: int) -> None:
        self.inner.check_address(paddr, length)

    @property
    def removal_requested(self) -> bool:
        return self.inner.removal_requested

    @property
    def request_fd(self) -> int | None:
        return self.inner.request_fd

    def reconnected(self) -> None:
        self.inner.reconnected()

    def check(self) -> None:
        self.inner.check()

    def device_lost(self) -> None:
        self.inner.device_lost()

    @property
    def quarantined(self) -> bool:
        return self.inner.quarantined

    def quarantine(self) -> None:
        self.inner.quarantine()

    def release_memory(self) -> None:
        self.inner.release_memory()

    def close(self) -> None:
        self.inner.close()
