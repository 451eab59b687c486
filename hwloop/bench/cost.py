"""What requests cost: counters that are read before and after, and filters that count what has no counter."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Self

from hwloop.device.base import Device
from hwloop.door.base import Opened, Place
from hwloop.hal.base import BufferDirection, Hal
from hwloop.spec import DeviceStatus, DeviceType, InterruptStatus, PhysAddr
from hwloop.transport.base import Transport
from hwloop.transport.filter import TransportFilter
from hwloop.transport.mmio import MmioTransport

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hwloop.device.base import Driver
    from hwloop.hal.interrupt import Interrupt
    from mmio import Region

_IO_COUNTS = "/proc/thread-self/io"


@dataclass(frozen=True)
class Costs:
    """Of the driver and the jobs' threads; None: not counted. What a device in process does on its own threads is not
    in it, what it does in ours is.

    `read_write_syscalls` are the system calls read, write and their kin, `context_switches` the voluntary ones: each is
    a wait in the kernel.
    """

    notifications: int | None = None
    interrupts: int | None = None
    register_accesses: int | None = None
    bytes_copied: int | None = None
    read_write_syscalls: int | None = None
    context_switches: int | None = None
    cpu_ns: int | None = None

    def __add__(self, other: Costs) -> Costs:
        """Counted in one of the two is counted."""
        return Costs(*(None if a is b is None else (a or 0) + (b or 0) for a, b in self._pairs(other)))

    def __sub__(self, other: Costs) -> Costs:
        return Costs(*(None if a is None else a - (b or 0) for a, b in self._pairs(other)))

    def _pairs(self, other: Costs) -> Iterator[tuple[int | None, int | None]]:
        return ((getattr(self, each.name), getattr(other, each.name)) for each in fields(self))

    def per_request(self, requests: int) -> dict[str, float | None]:
        """The same for one request; processor time in microseconds."""
        shares = {
            name: None if value is None or not requests else value / requests for name, value in vars(self).items()
        }
        cpu = shares.pop("cpu_ns")
        return {**shares, "cpu_us": None if cpu is None else cpu / 1000}

    @classmethod
    def of_thread(cls) -> Self:
        """What the calling thread has used so far."""
        calls = _read_write_calls()
        switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        return cls(read_write_syscalls=calls, context_switches=switches, cpu_ns=time.thread_time_ns())


def _read_write_calls() -> int | None:
    """None where the kernel does not count. This call counts itself from its second time on: it reads once."""
    try:
        file = os.open(_IO_COUNTS, os.O_RDONLY)
    except OSError:
        return None
    try:
        lines = os.read(file, 4096).decode().splitlines()
    finally:
        os.close(file)
    counts = dict(line.split(": ") for line in lines)
    return int(counts["syscr"]) + int(counts["syscw"])


OF_LOOKING = Costs(read_write_syscalls=1)
"""What `Costs.of_thread` adds to the next one."""


class Meter:
    """Reads the counters of a driver. `counted` is there where it was opened through a `CountedPlace`."""

    def __init__(self, disk: Driver, counted: CountedPlace | None = None) -> None:
        self._queues = disk.virtqueues if isinstance(disk, Device) else None
        self._counted = counted

    def read(self) -> Costs:
        """Everything so far."""
        return self._of_queues() + (self._counted.counts.so_far() if self._counted else Costs())

    def _of_queues(self) -> Costs:
        if self._queues is None:
            return Costs()
        return Costs(
            notifications=sum(queue.notifications for queue in self._queues),
            interrupts=sum(queue.interrupts for queue in self._queues),
        )


# --- What has no counter ----------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """Registers that the driver touched while requests ran, and bytes that a Hal copied, by all threads."""

    register_accesses: int = 0
    bytes_copied: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *, accesses: int = 0, copied: int = 0) -> None:
        with self.lock:
            self.register_accesses += accesses
            self.bytes_copied += copied

    def so_far(self) -> Costs:
        return Costs(register_accesses=self.register_accesses, bytes_copied=self.bytes_copied)


class CountedPlace(Place):
    """A place whose device is opened with filters in between, which count; without it there is nothing in the way."""

    def __init__(self, inner: Place) -> None:
        super().__init__(inner.target)
        self._inner = inner
        self.counts = Counts()

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def device_type(self) -> DeviceType | None:
        return self._inner.device_type

    def open_transport(self) -> Opened:
        opened = self._inner.open_filtered()
        transport = CountingTransport(opened.transport, self.counts)
        return Opened(transport, CountingHal(opened.hal, self.counts), opened.resources, opened.why)


class CountingTransport(TransportFilter):
    """Counts the register accesses of what a driver does while requests run; setting up a device is not counted."""

    def __init__(self, inner: Transport, counts: Counts) -> None:
        super().__init__(inner)
        self._counts = counts
        self._ack_is_a_write = isinstance(inner, MmioTransport)

    def doorbell(self, queue: int) -> None:
        """None: what is rung past us would not be counted."""

    def notify(self, queue: int, data: int | None = None) -> None:
        self._counts.add(accesses=1)
        self.inner.notify(queue, data)

    def get_status(self) -> DeviceStatus:
        self._counts.add(accesses=1)
        return self.inner.get_status()

    def ack_interrupt(self) -> InterruptStatus:
        """Reading the status acknowledges it on PCI; on MMIO a write does (VIRTIO 1.4, 4.2.2)."""
        status = self.inner.ack_interrupt()
        self._counts.add(accesses=2 if status and self._ack_is_a_write else 1)
        return status


class CountingHal(Hal):
    """Passes everything on, and counts the bytes that are copied when buffers are shared and given back."""

    def __init__(self, inner: Hal, counts: Counts) -> None:
        self.inner = inner
        self.name = inner.name
        self._counts = counts

    def share(self, buffer: Buffer, direction: BufferDirection) -> PhysAddr:
        if direction is not BufferDirection.DeviceToDriver:
            self._counts.add(copied=memoryview(buffer).nbytes)
        return self.inner.share(buffer, direction)

    def unshare(self, paddr: PhysAddr, buffer: Buffer, direction: BufferDirection) -> None:
        if direction is not BufferDirection.DriverToDevice:
            self._counts.add(copied=memoryview(buffer).nbytes)
        self.inner.unshare(paddr, buffer, direction)

    def dma_alloc(self, pages: int, direction: BufferDirection) -> tuple[PhysAddr, int]:
        return self.inner.dma_alloc(pages, direction)

    def dma_dealloc(self, paddr: PhysAddr, vaddr: int, pages: int) -> int:
        return self.inner.dma_dealloc(paddr, vaddr, pages)

    def mmio_phys_to_virt(self, paddr: PhysAddr, size: int, *, hot: bool = False) -> Region:
        return self.inner.mmio_phys_to_virt(paddr, size, hot=hot)

    def port_region(self, port: int, size: int) -> Region:
        return self.inner.port_region(port, size)

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

    def interrupt(self, vector: int | None = None) -> Interrupt | None:
        return self.inner.interrupt(vector)

    def check(self) -> None:
        self.inner.check()

    @property
    def quarantined(self) -> bool:
        return self.inner.quarantined

    def quarantine(self) -> None:
        self.inner.quarantine()

    def release_memory(self) -> None:
        self.inner.release_memory()

    def close(self) -> None:
        self.inner.close()
