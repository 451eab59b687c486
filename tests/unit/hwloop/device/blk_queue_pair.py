"""A BlkQueue and the device's side of its ring, in one process."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from threading import Thread
from typing import Any

import pytest

from cython_ring import Chain, DmaBuffer, Doorbell, Loopback, PackedLoopback
from hwloop.device.blk_queue import BlkQueue

MAKES: list[Any] = [Loopback, PackedLoopback]
SECOND = 1_000_000_000
CAPACITY = 1 << 20

every = pytest.mark.parametrize(
    ("make", "indirect", "in_order", "event_idx"),
    list(product(MAKES, [True, False], [False, True], [False, True])),
)


class Pair:
    """`queue` with a `device` that serves nothing by itself; options of the ring are `ring`'s."""

    def __init__(
        self, make: Any = Loopback, size: int = 16, *, indirect: bool = True, ring: Any = None, **options: Any
    ) -> None:
        self.loop = make(size, slots=True, **(ring or {}))
        self.rung = 0
        self.on_ring: Callable[[int], object] = lambda data: None
        arguments = {"capacity": CAPACITY, "indirect": indirect, "owner": self.loop.memory} | options
        self.queue = BlkQueue(self.loop.driver, self.loop.slot_memory(), Doorbell.call(self._ring), **arguments)

    def _ring(self, data: int) -> None:
        self.rung += 1
        self.on_ring(data)

    def fetch(self) -> Chain:
        chain = self.loop.device.fetch()
        assert isinstance(chain, Chain)
        return chain

    def answer(self, status: int | None = 0, written: int | None = None, chain: Chain | None = None) -> Chain:
        """Complete a chain, or the next one."""
        chain = chain or self.fetch()
        if status is not None:
            ctypes.c_uint8.from_address(chain.writable[-1][0]).value = status
        self.loop.device.complete(chain.head, chain.writable_bytes if written is None else written)
        return chain

    def serve(self, count: int, status: int = 0) -> None:
        assert self.loop.device.serve(count, 10 * SECOND, status) == count

    @contextmanager
    def serving(self, count: int, status: int = 0) -> Iterator[None]:
        """A thread that serves so many."""
        thread = Thread(target=self.loop.device.serve, args=(count, 30 * SECOND, status))
        thread.start()
        try:
            yield
        finally:
            thread.join()


def buffer(length: int = 65536, **options: Any) -> DmaBuffer:
    """Memory whose device address is ours."""
    memory = mmap.mmap(-1, length)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return DmaBuffer(address, address, length, owner=memory, **options)
