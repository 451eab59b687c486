"""The memory in which a back end notes what it is working on: it outlives the back end, and tells the next one.

QEMU, docs/interop/vhost-user.rst, "Inflight I/O tracking": the layout for split queues, and the order in which it is
written, so that a death between any two stores can be told.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

from hwloop.owner import Owner
from hwloop.vhost.messages import Inflight

_ALIGNMENT = 64
_VERSION = 1


class _Descriptor(ctypes.LittleEndianStructure):
    """What is known of the chain that begins at the descriptor of this number."""

    _fields_ = (
        ("inflight", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 5),
        ("next", ctypes.c_uint16),
        ("counter", ctypes.c_uint64),
    )


class _Queue(ctypes.LittleEndianStructure):
    """The head of a queue's region; its descriptors follow."""

    _fields_ = (
        ("features", ctypes.c_uint64),
        ("version", ctypes.c_uint16),
        ("desc_num", ctypes.c_uint16),
        ("last_batch_head", ctypes.c_uint16),
        ("used_idx", ctypes.c_uint16),
    )


def region_bytes(queue_size: int) -> int:
    """What one split queue takes of the memory."""
    size = ctypes.sizeof(_Queue) + queue_size * ctypes.sizeof(_Descriptor)
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class InflightMemory(Owner):
    """The notes of all queues, in the file `descriptor`, which stays the caller's."""

    def __init__(self, described: Inflight, descriptor: int) -> None:
        self._queue_size = described.queue_size
        self._offset = described.offset
        self._map = mmap.mmap(descriptor, described.offset + described.size)
        self._anchor: Any = ctypes.c_char.from_buffer(self._map)

    def queue(self, index: int) -> InflightQueue:
        """The notes of one queue."""
        start = ctypes.addressof(self._anchor) + self._offset + index * region_bytes(self._queue_size)
        return InflightQueue(start, self._queue_size)

    def close(self) -> None:
        self._anchor = None
        self._map.close()


class InflightQueue:
    """The notes of one split queue, in the order of calls in which a back end makes them."""

    def __init__(self, address: int, size: int) -> None:
        self._head = _Queue.from_address(address)
        self._descriptors = (_Descriptor * size).from_address(address + ctypes.sizeof(_Queue))
        self._counter = 0

    def recover(self, used_index: int) -> list[int]:
        """The heads that a back end before this one had taken and not used, oldest first; `used_index` is how far the
        used ring got. What it used and did not come to strike out is struck out now."""
        if not self._head.version:
            self._head.version, self._head.desc_num = _VERSION, len(self._descriptors)
        else:
            self.used(used_index)
        self._head.used_idx = used_index
        found = [(each.counter, head) for head, each in enumerate(self._descriptors) if each.inflight]
        self._counter = max((counter for counter, _ in found), default=-1) + 1
        return [head for _, head in sorted(found)]

    def take(self, head: int) -> None:
        """A chain was fetched."""
        self._descriptors[head].counter = self._counter
        self._counter += 1
        self._descriptors[head].inflight = 1

    def about_to_use(self, head: int) -> None:
        """The used ring will have this chain next."""
        self._descriptors[head].next = self._head.last_batch_head
        self._head.last_batch_head = head

    def used(self, used_index: int) -> None:
        """The used ring has what was about to be used, and its index says so."""
        self._strike_out_last(used_index - self._head.used_idx & 0xFFFF)
        self._head.used_idx = used_index

    def _strike_out_last(self, count: int) -> None:
        head = self._head.last_batch_head
        for _ in range(count):
            self._descriptors[head].inflight = 0
            head = self._descriptors[head].next
