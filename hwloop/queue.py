"""A virtqueue: its areas from a Hal, its ring from `cython_ring`, its notification by a Transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cython_ring import RingBroken, SplitRing, split_layout
from hwloop.deadline import Deadline
from hwloop.errors import (
    AlreadyUsed,
    DeadlineExpired,
    DeviceClosed,
    InvalidParam,
    QueueBroken,
    QueueFull,
    TransportError,
)
from hwloop.hal.base import BufferDirection, Dma, Hal, pages_for
from hwloop.hal.interrupt import Interrupt
from hwloop.spec import PAGE_SIZE, Feature, PhysAddr
from hwloop.transport.base import Transport

Part = tuple[PhysAddr, int]
"""A piece of a buffer: its device address and its length in bytes."""

LARGEST_SIZE = 256
"""The queue size that is used where the device allows more: enough to keep any device here busy."""

_SPIN_NANOSECONDS = 100_000


@dataclass(frozen=True)
class _Areas:
    """The memory of a queue, and its three areas, each by device address and by ours."""

    memory: tuple[Dma, ...]
    desc: tuple[PhysAddr, int]
    driver: tuple[PhysAddr, int]
    device: tuple[PhysAddr, int]


class VirtQueue:
    """Virtqueue `index` of a device between `begin_init` and its reset.

    `size` descriptors (a power of two), or the largest that the device and `LARGEST_SIZE` allow; on a transport with
    a fixed queue size, the device's. `interrupts` counts what `use_interrupt` brought.

    Raises TransportError when the device has no such queue, InvalidParam for a size that it cannot have, AlreadyUsed
    when the queue is set up already, DmaError.
    """

    def __init__(self, hal: Hal, transport: Transport, index: int, size: int | None = None) -> None:
        self.index = index
        self.size = _size_for(transport, index, size)
        if transport.queue_used(index):
            raise AlreadyUsed(f"queue {index} is set up already", remedy="reset the device first")
        self._transport = transport
        areas = self._areas = (_legacy_areas if transport.requires_legacy_layout() else _modern_areas)(hal, self.size)
        self.notifications = 0
        self.interrupts = 0
        self._interrupt: Interrupt | None = None
        self._ring: SplitRing | None = SplitRing(
            self.size,
            areas.desc[1],
            areas.driver[1],
            areas.device[1],
            owner=areas.memory,
            platform_order=bool(transport.negotiated & Feature.ORDER_PLATFORM),
        )
        # We poll: ask the device not to interrupt at all.
        self._ring.set_used_notifications(False)
        transport.queue_set(index, self.size, areas.desc[0], areas.driver[0], areas.device[0])

    @property
    def free(self) -> int:
        """How many descriptors are free."""
        return self._live().free

    @property
    def outstanding(self) -> int:
        """How many requests the device has."""
        return self._live().outstanding

    def add(self, readable: Sequence[Part], writable: Sequence[Part], token: object) -> None:
        """Put one buffer into the ring; the device does not see it before `submit`.

        `token` comes back from `pop`. Raises QueueFull.
        """
        ring = self._live()
        if ring.free < len(readable) + len(writable):
            raise QueueFull
        ring.add(readable, writable, token)

    def submit(self) -> None:
        """Make everything added since the last `submit` available, and notify the device if it wants that."""
        ring = self._live()
        if ring.publish() and ring.needs_notification():
            self.notify()

    def notify(self) -> None:
        """Notify the device, wanted or not."""
        self.notifications += 1
        self._transport.notify(self.index)

    def pop(self) -> tuple[Any, int] | None:
        """The token of a buffer that the device has used and how many bytes it wrote, or None.

        Raises QueueBroken when what the device put into the used ring is impossible; every later call raises it too.
        """
        try:
            return self._live().pop()
        except RingBroken as error:
            raise QueueBroken(f"queue {self.index}: {error.strerror}", section="2.7.8") from error

    def can_pop(self) -> bool:
        """Whether the device has used a buffer that was not popped yet."""
        return self._live().can_pop()

    def should_notify(self) -> bool:
        """Whether the device wants to be notified of what was published last."""
        return self._live().needs_notification()

    def set_dev_notify(self, enable: bool) -> None:
        """Ask the device to interrupt when it uses buffers, or not to; it may all the same (VIRTIO 1.4, 2.7.7)."""
        self._live().set_used_notifications(enable)

    def add_notify_wait_pop(self, readable: Sequence[Part], writable: Sequence[Part], seconds: float) -> int:
        """Put one buffer into an idle queue, wait for it and return how many bytes the device wrote.

        Raises QueueFull, AlreadyUsed when other buffers are outstanding, QueueBroken, DeadlineExpired: the device has
        the buffer then, until it is reset.
        """
        if self.outstanding:
            raise AlreadyUsed(f"queue {self.index} has {self.outstanding} buffers outstanding", remedy="pop them first")
        self.add(readable, writable, None)
        self.submit()
        deadline = Deadline(seconds)
        while (used := self.pop()) is None:
            if not self.wait(deadline.remaining()) and deadline.expired():
                raise DeadlineExpired(f"a buffer of queue {self.index}", seconds)
        return used[1]

    def wait(self, seconds: float) -> bool:
        """Wait for a used buffer, at most so long: on the interrupt where one is in use, else with naps after a short
        spin. False when there is none."""
        ring, line = self._live(), self._interrupt
        if line is None:
            return ring.wait(int(seconds * 1e9), _SPIN_NANOSECONDS)
        if ring.wait(0, 0):
            return True
        if line.wait(seconds):
            self.interrupts += 1
            if line.needs_ack:
                self._transport.ack_interrupt()
            line.rearm()
        return ring.wait(0, 0)

    def use_interrupt(self, line: Interrupt | None) -> None:
        """Wait on this interrupt from now on, and let the device send it; None: poll, and ask it not to."""
        self._live().set_used_notifications(line is not None)
        self._interrupt = line

    def dump(self) -> str:
        """Both sides of the ring, a line each, for a person who wants to know why nothing completes."""
        state = self._live().dump()
        return "\n".join(f"queue {self.index}: {key} = {value}" for key, value in state.items())

    def close(self) -> None:
        """Forget the ring and free its memory. Idempotent. The device must have been reset."""
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()
            for memory in self._areas.memory:
                memory.close()

    def _live(self) -> SplitRing:
        if self._ring is None:
            raise DeviceClosed(f"queue {self.index} is closed")
        return self._ring


def _modern_areas(hal: Hal, size: int) -> _Areas:
    """The driver's areas are memory that the device may only read, so an IOMMU keeps it from rewriting descriptors."""
    layout = split_layout(size)
    driver = Dma(hal, pages_for(layout.used_offset), BufferDirection.DriverToDevice)
    device = Dma(hal, pages_for(layout.used_bytes), BufferDirection.DeviceToDriver)
    return _Areas(
        (driver, device), _at(driver, layout.desc_offset), _at(driver, layout.avail_offset), _at(device, 0)
    )  # fmt: skip


def _legacy_areas(hal: Hal, size: int) -> _Areas:
    """One block from a page boundary on, the used ring at the next one (VIRTIO 1.4, 2.7.2)."""
    layout = split_layout(size, align=PAGE_SIZE)
    block = Dma(hal, pages_for(layout.used_offset + layout.used_bytes), BufferDirection.Both)
    return _Areas(
        (block,), _at(block, layout.desc_offset), _at(block, layout.avail_offset), _at(block, layout.used_offset)
    )  # fmt: skip


def _at(memory: Dma, offset: int) -> tuple[PhysAddr, int]:
    return PhysAddr(memory.paddr + offset), memory.vaddr + offset


def _size_for(transport: Transport, index: int, wanted: int | None) -> int:
    largest = transport.max_queue_size(index)
    if not largest:
        raise TransportError(f"the device has no queue {index}", section="4.1.5.1.3")
    if largest > 32768:
        raise TransportError(
            f"queue {index} claims {largest} descriptors; 32768 is the most there can be", section="2.7"
        )
    if wanted is not None and (wanted < 1 or wanted & (wanted - 1) or wanted > largest):
        raise InvalidParam(f"queue {index} cannot have {wanted} descriptors", remedy=f"a power of two up to {largest}")
    if transport.fixed_queue_size:
        return _fixed_size(index, largest, wanted)
    size = wanted or min(largest, LARGEST_SIZE)
    # A split queue has a power of two of descriptors (VIRTIO 1.4, 4.1.4.3.2).
    return 1 << (size.bit_length() - 1)


def _fixed_size(index: int, largest: int, wanted: int | None) -> int:
    if largest & (largest - 1):
        raise TransportError(f"queue {index} has {largest} descriptors, which is no power of two", section="2.7")
    if wanted not in (None, largest):
        raise InvalidParam(f"queue {index} cannot have {wanted} descriptors; this transport fixes it at {largest}")
    return largest
