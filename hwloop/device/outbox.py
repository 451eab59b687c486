"""A queue on which the driver speaks: bytes are copied into slots of its own, which the device gives back."""

from __future__ import annotations

from hwloop.hal.base import BufferDirection, Dma, Hal, pages_for
from hwloop.owner import Owner
from hwloop.queue import VirtQueue
from hwloop.spec import PAGE_SIZE, PhysAddr


class Outbox(Owner):
    """`slots` buffers of `slot_bytes` for `queue`. A caller that stops waiting loses nothing: the slot stays the
    device's until it was used.

    `close()` frees the slots and the queue; the device must have been reset.
    """

    def __init__(self, hal: Hal, queue: VirtQueue, slots: int, slot_bytes: int = PAGE_SIZE) -> None:
        self.queue = queue
        self.slot_bytes = slot_bytes
        count = min(slots, queue.size)
        self._memory = Dma(hal, pages_for(count * slot_bytes), BufferDirection.DriverToDevice)
        self._free = list(range(count))
        self._tickets: dict[int, int] = {}
        self._next_ticket = 1

    def put(self, data: bytes | memoryview) -> int | None:
        """Copy at most `slot_bytes` bytes into a free slot and add it; the ticket of the slot, or None when all are
        taken. The device does not see it before `queue.submit()`."""
        if not self._free:
            return None
        slot, ticket = self._free.pop(), self._next_ticket
        start = slot * self.slot_bytes
        self._memory.view[start : start + len(data)] = data
        # First the account: a signal may come between, and what is in the queue comes back.
        self._tickets[slot] = ticket
        self._next_ticket += 1
        self.queue.add([(PhysAddr(self._memory.paddr + start), len(data))], [], slot)
        return ticket

    def take_back(self) -> int:
        """Free the slots that the device has used; returns how many. Raises QueueBroken."""
        count = 0
        while (used := self.queue.pop()) is not None:
            del self._tickets[used[0]]
            self._free.append(used[0])
            count += 1
        return count

    def has(self, ticket: int) -> bool:
        """Whether the device has not yet used the slot of this ticket, or one of an earlier ticket."""
        return any(held <= ticket for held in self._tickets.values())

    def close(self) -> None:
        self.queue.close()
        self._memory.close()
