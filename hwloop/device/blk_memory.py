"""Memory that a caller shares with a disk: requests of `disk.queues` read and write it in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cython_ring import DmaBuffer, RingUsageError, address_of
from hwloop.device.base import Device
from hwloop.errors import DeviceClosed, InvalidParam
from hwloop.hal.base import BufferDirection, Dma, pages_for

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hwloop.device.blk_queue import BlkQueue


class BlkMemory(Device):
    """Adds `alloc` and `register` to a disk with `queues`."""

    queues: list[BlkQueue]
    _allocated: list[DmaBuffer]
    _ended: list[DmaBuffer]

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
        return self._keep(DmaBuffer(memory.vaddr, memory.paddr, size, owner=memory, release=memory.close))

    def register(self, buffer: Buffer) -> DmaBuffer:
        """Memory of the caller's own, whole pages such as `mmap.mmap(-1, size)`, as a DmaBuffer: the device reads and
        writes it in place. One that is read-only can only be written to the disk.

        It lasts as one of `alloc` does; until its `close()` the pages stay where they are, and a child process does not
        inherit them. Raises InvalidParam for what is not whole pages; Unsupported where the device cannot be shown
        them: over VFIO without VIRTIO_F_ACCESS_PLATFORM, UIO, /dev/mem, vhost-user, and QEMU's test server. DmaError,
        DeviceClosed.
        """
        if self._closed:
            raise DeviceClosed("the disk is closed", remedy="open it again")
        paddr = self.hal.register(buffer)
        view = memoryview(buffer)
        return self._keep(
            DmaBuffer(
                address_of(view),
                paddr,
                view.nbytes,
                writable=not view.readonly,
                read_only=view.readonly,
                owner=view,
                release=lambda: self.hal.unregister(paddr),
            )
        )

    def _keep(self, buffer: DmaBuffer) -> DmaBuffer:
        self._allocated = [known for known in self._allocated if not known.closed]
        self._allocated.append(buffer)
        return buffer

    @contextmanager
    def transfer_memory(self, size: int) -> Iterator[Buffer]:
        """Memory of `alloc` for requests of a long transfer. What requests still have at the end of the `with` block is
        given back by the next transfer, or with the disk."""
        self._close_transfers()
        buffer = self.alloc(size)
        try:
            yield buffer
        finally:
            self._close_transfers(buffer)

    def _close_transfers(self, *ended: DmaBuffer) -> None:
        self._ended += ended
        for buffer in self._ended:
            with suppress(RingUsageError):
                buffer.close()
        self._ended = [buffer for buffer in self._ended if not buffer.closed]

    def _place_of(self, data: Buffer | None) -> int | None:
        """Where the device finds a view of memory of `alloc`; None for other memory."""
        if not isinstance(data, memoryview) or not isinstance(data.obj, DmaBuffer):
            return None
        buffer = data.obj
        # Another disk's is at addresses that mean something else to this one.
        return buffer.locate(data) if any(known is buffer for known in self._allocated) else None

    def _tear_down(self) -> None:
        try:
            self._take_back()
        finally:
            super()._tear_down()

    def _take_back(self) -> None:
        """After the last reset. What is in flight never completes; memory that somebody still looks at stays for ever,
        since the next mapping at its address would show through."""
        self._abandon_requests()
        # Of a device that is gone nothing completes either; whether it may still write, the Hal knows.
        for queue in self.queues if not self.hal.quarantined else []:
            with suppress(RingUsageError):
                queue.reset()
        for buffer in self._allocated:
            try:
                buffer.close()
            except RingUsageError:
                self.hal.quarantine()
