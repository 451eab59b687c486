"""A virtqueue: its areas from a Hal, its ring from `cython_ring`, its notification by a Transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cython_ring import RingBroken, SplitRing, split_layout
from hwloop.errors import AlreadyUsed, DeviceClosed, InvalidParam, QueueBroken, QueueFull, TransportError
from hwloop.hal.base import BufferDirection, Dma, Hal, pages_for
from hwloop.spec import Feature, PhysAddr
from hwloop.transport.base import Transport

Part = tuple[PhysAddr, int]
"""A piece of a buffer: its device address and its length in bytes."""

LARGEST_SIZE = 256
"""The queue size that is used where the device allows more: enough to keep any device here busy."""

_SPIN_NANOSECONDS = 100_000


class VirtQueue:
    """Virtqueue `index` of a device between `begin_init` and its reset.

    `size` descriptors (a power of two), or the largest that the device and `LARGEST_SIZE` allow. The driver area
    (descriptors and available ring) is memory that the device may only read, the device area (used ring) memory that
    it writes, so an IOMMU keeps it from rewriting descriptors.

    Raises TransportError when the device has no such queue, InvalidParam for a size that it cannot have, AlreadyUsed
    when the queue is set up already, DmaError.
    """

    def __init__(self, hal: Hal, transport: Transport, index: int, size: int | None = None) -> None:
        self.index = index
        self.size = _size_for(transport, index, size)
        if transport.queue_used(index):
            raise AlreadyUsed(f"queue {index} is set up already", remedy="reset the device first")
        self._transport = transport
        layout = split_layout(self.size)
        self._driver = Dma(hal, pages_for(layout.used_offset), BufferDirection.DriverToDevice)
        self._device = Dma(hal, pages_for(layout.used_bytes), BufferDirection.DeviceToDriver)
        self.notifications = 0
        self._ring: SplitRing | None = SplitRing(
            self.size,
            self._driver.vaddr + layout.desc_offset,
            self._driver.vaddr + layout.avail_offset,
            self._device.vaddr,
            owner=(self._driver, self._device),
            platform_order=bool(transport.negotiated & Feature.ORDER_PLATFORM),
        )
        # We poll: ask the device not to interrupt at all.
        self._ring.set_used_notifications(False)
        transport.queue_set(
            index,
            self.size,
            PhysAddr(self._driver.paddr + layout.desc_offset),
            PhysAddr(self._driver.paddr + layout.avail_offset),
            self._device.paddr,
        )

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

    def wait(self, seconds: float) -> bool:
        """Wait for a used buffer, at most so long; naps after a short spin. False when there is none."""
        return self._live().wait(int(seconds * 1e9), _SPIN_NANOSECONDS)

    def dump(self) -> str:
        """Both sides of the ring, a line each, for a person who wants to know why nothing completes."""
        state = self._live().dump()
        return "\n".join(f"queue {self.index}: {key} = {value}" for key, value in state.items())

    def close(self) -> None:
        """Forget the ring and free its memory. Idempotent. The device must have been reset."""
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()
            self._driver.close()
            self._device.close()

    def _live(self) -> SplitRing:
        if self._ring is None:
            raise DeviceClosed(f"queue {self.index} is closed")
        return self._ring


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
    size = wanted or min(largest, LARGEST_SIZE)
    # A split queue has a power of two of descriptors (VIRTIO 1.4, 4.1.4.3.2).
    return 1 << (size.bit_length() - 1)
