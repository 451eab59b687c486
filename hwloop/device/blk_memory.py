"""Memory that a caller shares with a disk: requests of `disk.queues` read and write it in place."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cython_ring import DmaBuffer, RingUsageError
from hwloop.device.base import Device
from hwloop.errors import DeviceClosed, InvalidParam
from hwloop.hal.base import BufferDirection, Dma, pages_for

if TYPE_CHECKING:
    from hwloop.device.blk_queue import BlkQueue


class BlkMemory(Device):
    """Adds `alloc` to a disk with `queues`."""

    queues: list[BlkQueue]
    _allocated: list[DmaBuffer]

    def alloc(self, size: int) -> DmaBuffer:
        """Zeroed memory of `size` bytes, in whole pages of its own, that the device reads and writes in place.

        A DmaBuffer has the buffer protocol, and is what `disk.queues[i]` takes: `read_into(sector, buffer)`. It lasts
        until its `close()`, or that of the disk, which keeps it mapped as long as there are views of it. Raises
        InvalidParam, DmaError, DeviceClosed.
        """
        if size <= 0:
            raise InvalidParam(f"cannot allocate {size} bytes", remedy="give one or more")
        if self._closed:
            raise DeviceClosed("the disk is closed", remedy="open it again")
        memory = Dma(self.hal, pages_for(size), BufferDirection.Both)
        buffer = DmaBuffer(memory.vaddr, memory.paddr, size, owner=memory, release=memory.close)
        self._allocated = [known for known in self._allocated if not known.closed]
        self._allocated.append(buffer)
        return buffer

    def _tear_down(self) -> None:
        try:
            self._take_back()
        finally:
            super()._tear_down()

    def _take_back(self) -> None:
        """After the last reset. What is in flight never completes; memory that somebody still looks at stays for ever,
        since the next mapping at its address would show through."""
        for queue in self.queues if self._silent else []:
            with suppress(RingUsageError):
                queue.reset()
        for buffer in self._allocated:
            try:
                buffer.close()
            except RingUsageError:
                self.hal.quarantine()
