"""A virtqueue that owns its buffers: all of them are with the device, which fills one whenever it has something."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hwloop.errors import AlreadyUsed, InvalidParam
from hwloop.hal.base import BufferDirection, Dma, Hal, pages_for
from hwloop.owner import Owner
from hwloop.queue import VirtQueue
from hwloop.spec import PhysAddr

T = TypeVar("T")


class OwningQueue(Owner):
    """Posts as many buffers of `buffer_size` bytes as `queue` has descriptors, and posts each again once it was read.

    For queues on which the device speaks by itself: received packets, console input, events. The queue must be empty.
    `close()` frees the buffers and the queue; the device must have been reset.
    """

    def __init__(self, hal: Hal, queue: VirtQueue, buffer_size: int) -> None:
        if buffer_size < 1:
            raise InvalidParam(f"a buffer cannot have {buffer_size} bytes")
        if queue.outstanding:
            raise AlreadyUsed(f"queue {queue.index} has {queue.outstanding} buffers of somebody else")
        self.queue = queue
        self.buffer_size = buffer_size
        self._memory = Dma(hal, pages_for(buffer_size * queue.size), BufferDirection.DeviceToDriver)
        for slot in range(queue.size):
            self._post(slot)

    def start(self) -> None:
        """Make the buffers available. Called once the device is live (VIRTIO 1.4, 3.1.1, step 8)."""
        self.queue.submit()

    def poll(self, handler: Callable[[bytes], T]) -> T | None:
        """Give the oldest filled buffer to `handler`, post it again and return what the handler did; None for none.

        Raises what the handler raises, after the buffer was posted; QueueBroken.
        """
        used = self.queue.pop()
        if used is None:
            return None
        slot, length = used
        start = slot * self.buffer_size
        data = bytes(self._memory.view[start : start + length])
        self._post(slot)
        self.queue.submit()
        return handler(data)

    def should_notify(self) -> bool:
        """Whether the device wants to be notified of posted buffers."""
        return self.queue.should_notify()

    def set_dev_notify(self, enable: bool) -> None:
        """Ask the device to interrupt when it fills buffers, or not to."""
        self.queue.set_dev_notify(enable)

    def close(self) -> None:
        self.queue.close()
        self._memory.close()

    def _post(self, slot: int) -> None:
        part = PhysAddr(self._memory.paddr + slot * self.buffer_size), self.buffer_size
        self.queue.add([], [part], slot)
