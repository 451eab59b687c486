"""How the requests of a job reach the disk and come back: the seam between the loop that measures and the driver."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cython_ring.histogram import Histogram
from hwloop.bench.workload import Operation, Workload
from hwloop.device.base import Device
from hwloop.errors import QueueFull, Unsupported

if TYPE_CHECKING:
    from hwloop.device.block import BlockDevice

Latencies = tuple[Histogram, Histogram]
"""Of reads and of writes, in nanoseconds: an `Operation`'s first part is the index."""

_NAP_SECONDS = 50e-6
_POOL_BYTES = 1 << 20


class Engine(ABC):
    """The requests of one job, and nobody else's.

    A latency begins right before the request is handed to the driver, and ends when the driver has found it complete,
    with its data in memory of this process.
    """

    in_flight = 0
    copied = 0
    """Bytes that were copied so far to hand results to us; what a Hal copies is not in it."""

    @abstractmethod
    def submit(self, operations: Sequence[Operation]) -> int:
        """Hand requests to the driver; returns how many there was room for. Raises DeviceError."""

    @abstractmethod
    def reap(self, latencies: Latencies) -> int:
        """Wait for one completion at least, record all that there are, and return how many; 0 when none is in flight.

        Raises what a request failed with, DeviceLost, DeadlineExpired.
        """


class RequestEngine(Engine):
    """One call of the driver a request."""

    def __init__(
        self, disk: BlockDevice, workload: Workload, job: int, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._disk, self._length, self._clock = disk, workload.block_bytes, clock
        self._begun: dict[int, tuple[bool, int]] = {}
        # Nothing is ever written without this.
        self._data = _Data(workload, job) if workload.writes else None

    def submit(self, operations: Sequence[Operation]) -> int:
        for taken, (write, sector) in enumerate(operations):
            began = self._clock()
            try:
                token = self._send(write, sector)
            except QueueFull:
                return taken
            self._begun[token] = (write, began)
            self.in_flight += 1
        return len(operations)

    def reap(self, latencies: Latencies) -> int:
        if not self._begun:
            # The queue is full of others' requests.
            time.sleep(_NAP_SECONDS)
            return 0
        tokens = self._disk.wait_any(self._begun)
        now = self._clock()
        for token in tokens:
            write, began = self._begun.pop(token)
            self.in_flight -= 1
            self.copied += len(self._disk.complete(token))
            latencies[write].record(now - began)
        return len(tokens)

    def _send(self, write: bool, sector: int) -> int:
        if not write:
            return self._disk.submit_read(sector, self._length)
        assert self._data is not None, "a workload that reads has no writes"
        return self._disk.submit_write(sector, self._data.take())


class _Data:
    """Random bytes to write: slices of one pool, so that no two writes in a row are the same."""

    def __init__(self, workload: Workload, job: int) -> None:
        self._length = workload.block_bytes
        pool = random.Random(f"{workload.seed}/{job}/data").randbytes(_POOL_BYTES + self._length)
        self._pool = memoryview(pool)
        self._at = 0

    def take(self) -> memoryview:
        self._at = (self._at + 512) % _POOL_BYTES
        return self._pool[self._at : self._at + self._length]


def choose_waiting(disk: BlockDevice, wait: str) -> None:
    """Make the driver wait as the workload says. Raises Unsupported where the device has no interrupt."""
    if isinstance(disk, Device):
        if wait == "poll":
            disk.disable_interrupts()
        else:
            disk.enable_interrupts(wait)
    elif wait == "irq":
        raise Unsupported(f"{disk.device_name()} has no interrupt", remedy="choose --wait poll")
