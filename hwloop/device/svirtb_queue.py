"""The ring of svirtb as the device sees it (seed 002, 2.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from hwloop.device.svirtb_memory import BadAddress, Memory
from hwloop.device.svirtb_protocol import ENTRY_BYTES, VirtQueueEntry


class VirtQueue:
    """`size` entries at device address `address`, read from memory each time, since the driver owns it."""

    def __init__(self, memory: Memory, address: int, size: int) -> None:
        self._memory = memory
        self.address = address
        self.size = size

    @classmethod
    def new_from_raw_ptr(cls, memory: Memory, address: int, size: int) -> Self:
        """The ring that a driver configured. Raises BadAddress unless it has entries and all of them can be read."""
        if size <= 0:
            raise BadAddress(f"a ring of {size} entries")
        memory.read(address, size * ENTRY_BYTES)
        return cls(memory, address, size)

    def entry(self, position: int) -> VirtQueueEntry:
        """The entry of a position that counts up for ever. Raises BadAddress."""
        at = self.address + position % self.size * ENTRY_BYTES
        return VirtQueueEntry.parse(self._memory.read(at, ENTRY_BYTES))


class VirtQueueFetcher:
    """The entries from the tail up to the head, both counted for ever."""

    def __init__(self, queue: VirtQueue, tail: int, head: int) -> None:
        self._queue = queue
        self._positions = iter(range(tail, head))

    def fetch(self) -> VirtQueueEntry | None:
        """The next entry, or None when there is none."""
        position = next(self._positions, None)
        return None if position is None else self._queue.entry(position)

    def __iter__(self) -> Iterator[VirtQueueEntry]:
        while (entry := self.fetch()) is not None:
            yield entry
