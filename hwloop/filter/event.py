"""One event of a trace, and how it is on disk: 24 bytes, and what some carry behind them.

0   8  monotonic time in nanoseconds
8   1  kind
9   1  width in bytes of an access; type of a request; status of a block request
10  2  queue; which registers
12  4  offset; head of a chain; bytes that follow, padded to a multiple of 8
16  8  value
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """What happened. Numbers never change their meaning: traces are kept."""

    DEVICE = 1
    READ_FEATURES = 2
    WRITE_FEATURES = 3
    READ_STATUS = 4
    WRITE_STATUS = 5
    READ_QUEUE_SIZE = 6
    QUEUE_SIZE = 7
    QUEUE_DESC = 8
    QUEUE_DRIVER = 9
    QUEUE_DEVICE = 10
    QUEUE_UNSET = 11
    READ_QUEUE_USED = 12
    NOTIFY = 13
    ACK_INTERRUPT = 14
    READ_GENERATION = 15
    READ_CONFIG = 16
    WRITE_CONFIG = 17
    PAGE_SIZE = 18
    CONFIG_VECTOR = 19
    DMA_ON = 20
    DMA_OFF = 21
    CLOSE = 22
    TAKES_VECTOR = 23
    REGISTERS = 32
    REGISTER_READ = 33
    REGISTER_WRITE = 34
    CHAIN = 48
    REQUEST = 49
    READABLE = 50
    USED = 51
    WRITABLE = 52
    RING_LOST = 53
    INTERRUPT = 64
    ERROR = 65
    VECTORS = 66
    LINE = 67


CARRYING = frozenset({Kind.DEVICE, Kind.READABLE, Kind.WRITABLE, Kind.ERROR, Kind.RING_LOST})
"""The kinds that bytes follow; the field `arg` says how many."""

NO_STATUS = 0xFF
"""The width of a USED event of which no block status is known."""

RECORD = struct.Struct("<QBBHIQ")


class Event(NamedTuple):
    """One event. Which fields mean something, `kind` says."""

    ns: int
    kind: Kind
    width: int = 0
    queue: int = 0
    arg: int = 0
    value: int = 0
    payload: bytes = b""


def pack(event: Event) -> bytes:
    """The event as it is on disk."""
    head = RECORD.pack(*event[:6])
    return head + event.payload + bytes(-len(event.payload) % 8)


def unpack(data: memoryview | bytes, offset: int) -> tuple[Event, int] | None:
    """The event at an offset and the offset of the next one; None at the end, also where a process died.

    Raises ValueError for a kind that is not known.
    """
    if offset + RECORD.size > len(data):
        return None
    ns, number, width, queue, arg, value = RECORD.unpack_from(data, offset)
    if not number:
        return None
    kind, start = Kind(number), offset + RECORD.size
    if kind not in CARRYING:
        return Event(ns, kind, width, queue, arg, value), start
    end = start + arg
    if end > len(data):
        return None
    return Event(ns, kind, width, queue, arg, value, bytes(data[start:end])), end + (-arg % 8)
