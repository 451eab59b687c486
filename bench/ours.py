"""A disk of hwloop's, opened to be measured: its first queue, and memory that the device reaches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cython_ring import DmaBuffer
from hwloop import session
from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_queue import BlkQueue


class Disk:
    """What a driver gives to those who use its queues: `queue` is `disk.queues[0]`."""

    def __init__(self, disk: VirtioBlk) -> None:
        self._disk = disk
        self._buffer: DmaBuffer | None = None
        self.queue: BlkQueue = disk.queues[0]

    def alloc(self, size: int) -> DmaBuffer:
        """Memory of so many bytes: the same as before, if it had as many."""
        if self._buffer is None or len(self._buffer) != size:
            if self._buffer is not None:
                self._buffer.close()
            self._buffer = self._disk.alloc(size)
        return self._buffer


@contextmanager
def opened(target: str) -> Iterator[Disk]:
    """The disk behind a target. Nothing but reads is sent to it."""
    with session.open(target) as driver:
        if not isinstance(driver, VirtioBlk):
            raise TypeError(f"{target} is no disk")
        yield Disk(driver)
