"""Where the events of one device come together: numbered, timed, and passed to a file and to the last few."""

from __future__ import annotations

import ctypes
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from cython_ring import Ring
from hwloop.errors import DmaError
from hwloop.filter.event import NO_STATUS, Event, Kind
from hwloop.filter.file import TraceFile
from hwloop.filter.tap import Chain, PackedTap, Part, RingLost, RingTap, SplitTap
from hwloop.spec import DeviceType

LAST_EVENTS = 64
"""How many events are kept for the notes of an error."""
_HEADER_BYTES = 16


class Watch:
    """The events of one device. `file` None keeps the last ones only; `data` also keeps what buffers hold.

    May be used from several threads. `find` turns a device address into ours, once the Hal is known.
    """

    def __init__(self, file: TraceFile | None, *, data: bool = False) -> None:
        self.last: deque[Event] = deque(maxlen=LAST_EVENTS)
        self.find: Callable[[int], int] | None = None
        self.device_type: DeviceType | None = None
        self._file = file
        self._data = data
        self._lock = threading.RLock()
        self._taps: dict[int, RingTap] = {}
        self._rings: dict[int, Ring] = {}
        self._held: dict[tuple[int, int], Chain] = {}

    def event(
        self, kind: Kind, *, queue: int = 0, arg: int = 0, value: int = 0, width: int = 0, payload: bytes = b""
    ) -> None:
        """Something happened now."""
        with self._lock:
            event = Event(time.monotonic_ns(), kind, width, queue, len(payload) or arg, value, payload)
            self.last.append(event)
            if self._file is not None:
                self._file.write(event)

    def failure(self, kind: Kind, error: OSError) -> None:
        """What was tried raised an error."""
        attributes = {key: value for key, value in vars(error).items() if isinstance(value, str | int | float)}
        text = {"type": type(error).__name__, "args": list(error.args), "attributes": attributes}
        self.event(Kind.ERROR, value=kind, payload=json.dumps(text, default=str).encode())

    # --- Rings --------------------------------------------------------------------------------------------------------

    def follow(self, queue: int, size: int, desc: int, avail: int, used: int, *, in_order: bool = False) -> None:
        """Look at a split ring from now on, where its memory can be found."""
        self._follow(queue, lambda find: SplitTap(size, desc, avail, used, find, in_order=in_order))

    def follow_packed(self, queue: int, size: int, desc: int, *, in_order: bool = False) -> None:
        """Look at a packed ring from now on, once the driver's side of it is known (`found`)."""
        if queue not in self._taps:
            ring = partial(self._rings.get, queue)
            self._follow(queue, lambda find: PackedTap(size, desc, find, ring, in_order=in_order))

    def found(self, queue: int, ring: Ring) -> None:
        """This is the driver's side of a queue."""
        self._rings[queue] = ring

    def _follow(self, queue: int, make: Callable[[Callable[[int], int]], RingTap]) -> None:
        with self._lock:
            if self.find is None:
                return self._lose(queue, "its memory is out of reach")
            try:
                self._taps[queue] = make(self.find)
            except DmaError as error:
                self._lose(queue, error.problem)

    def _lose(self, queue: int, why: str) -> None:
        self._taps.pop(queue, None)
        self.event(Kind.RING_LOST, queue=queue, payload=why.encode())

    def forget(self, queue: int | None = None) -> None:
        """The memory of a ring, or of all, is about to go."""
        with self._lock:
            for index in list(self._taps) if queue is None else [queue]:
                self._taps.pop(index, None)
            self._held = {key: chain for key, chain in self._held.items() if key[0] in self._taps}

    def look(self) -> None:
        """See what both sides have done to the rings since the last time."""
        with self._lock:
            for queue, tap in list(self._taps.items()):
                try:
                    for chain in tap.new_chains():
                        self._published(queue, chain)
                    for head, written in tap.new_used():
                        self._used(queue, head, written)
                except RingLost as lost:
                    self._lose(queue, str(lost))

    def may_take(self, queue: int) -> int | None:
        """How many completions were seen and not taken; None where the ring is not followed. What is taken unseen is
        lost to the trace: the driver overwrites the status."""
        with self._lock:
            tap = self._taps.get(queue)
            return None if tap is None else tap.unread

    def taken(self, queue: int, count: int) -> None:
        with self._lock:
            if (tap := self._taps.get(queue)) is not None:
                tap.unread -= count

    def _published(self, queue: int, chain: Chain) -> None:
        self._held[queue, chain.head] = chain
        readable, writable = _bytes_of(chain.readable), _bytes_of(chain.writable)
        self.event(Kind.CHAIN, queue=queue, arg=chain.head, value=readable << 32 | writable)
        if self.device_type == DeviceType.Block and readable >= _HEADER_BYTES:
            header = self._peek(chain.readable, _HEADER_BYTES)
            kind, sector = int.from_bytes(header[:4], "little"), int.from_bytes(header[8:16], "little")
            self.event(Kind.REQUEST, queue=queue, arg=chain.head, value=sector, width=kind & 0xFF)
        if self._data:
            self.event(Kind.READABLE, queue=queue, value=chain.head, payload=self._peek(chain.readable, readable))

    def _used(self, queue: int, head: int, written: int) -> None:
        chain = self._held.pop((queue, head), None)
        status = NO_STATUS
        if chain is not None and chain.writable and self.device_type == DeviceType.Block:
            address, length = chain.writable[-1]
            status = self._peek([(address + length - 1, 1)], 1)[0]
        self.event(Kind.USED, queue=queue, arg=head, value=written, width=status)
        if self._data and chain is not None:
            data = self._peek(chain.writable, _bytes_of(chain.writable))
            self.event(Kind.WRITABLE, queue=queue, value=head, payload=data)

    def _peek(self, parts: Any, count: int) -> bytes:
        """The first bytes of a buffer; zeros for memory that is not found."""
        data = b""
        for address, length in parts:
            length = min(length, count - len(data))
            try:
                assert self.find is not None
                data += ctypes.string_at(self.find(address), length)
            except DmaError:
                data += bytes(length)
            if len(data) >= count:
                break
        return data


def _bytes_of(parts: tuple[Part, ...]) -> int:
    return sum(length for _, length in parts)
