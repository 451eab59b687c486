"""The entropy device (VIRTIO 1.4, 5.4)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from hwloop.device.watched import WatchedDevice
from hwloop.errors import DeviceError, InvalidParam
from hwloop.hal.base import BufferDirection
from hwloop.spec import Feature, PhysAddr

if TYPE_CHECKING:
    from typing_extensions import Buffer

REQUEST_BYTES = 4096
"""Bytes of one request at most."""
_MOST_REQUESTS = 8


class VirtioRng(WatchedDevice):
    """The VirtIO entropy device driver; one request queue, no features, no configuration.

    Its bytes are those of the device: whether they are random enough for a key is a question to whoever runs it.
    """

    SUPPORTED_FEATURES = Feature.VERSION_1 | Feature.ACCESS_PLATFORM | Feature.ORDER_PLATFORM

    def _set_up(self) -> None:
        self._queue = self._add_queue(0)
        count = min(_MOST_REQUESTS, self._queue.size)
        self._memory = self._add_buffer(count * REQUEST_BYTES, BufferDirection.DeviceToDriver)
        self._free = list(range(count))
        self._asked: dict[int, int] = {}

    def device_name(self) -> str:
        return "virtio-rng"

    def read(self, length: int, seconds: float | None = None) -> bytes:
        """`length` bytes from the device, which has `seconds` for all of them (default: `request_seconds`).

        When they do not come in time the device is reset, and has to be opened again. Raises InvalidParam,
        DeviceError for a device that answers without a byte, QueueBroken for one that claims more than it was asked
        for, DeviceLost, DeadlineExpired.
        """
        if length < 0:
            raise InvalidParam(f"cannot read {length} bytes")
        data = bytearray(length)
        self.read_into(data, seconds)
        return bytes(data)

    def read_into(self, buffer: Buffer, seconds: float | None = None) -> None:
        """As `read`, into a writable buffer."""
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise InvalidParam("the buffer to read into cannot be written", remedy="give a bytearray")
        patience, filled = self._patience(seconds), 0
        while filled < view.nbytes:
            with self._working():
                got = self._take(view[filled:])
                filled += got
                self._ask_for(view.nbytes - filled)
                if got or filled == view.nbytes:
                    continue
                if patience.is_over():
                    waited_for = f"{view.nbytes - filled} of {view.nbytes} random bytes"
                    raise self._out_of_time(self._queue, patience, waited_for)
                self._wait_for(self._queue, patience)

    def _ask_for(self, missing: int) -> None:
        """Have requests in flight for all that is missing, or as many as there may be.

        Those that an interrupted call left behind count: their bytes are as good.
        """
        missing -= sum(self._asked.values())
        while missing > 0 and self._free:
            slot, size = self._free.pop(), min(missing, REQUEST_BYTES)
            self._asked[slot] = size
            self._queue.add([], [(PhysAddr(self._memory.paddr + slot * REQUEST_BYTES), size)], slot)
            missing -= size
        self._queue.submit()

    def _take(self, into: memoryview) -> int:
        """Copy what has come to the start of a buffer; returns how many bytes. What is over is dropped."""
        filled = 0
        while filled < into.nbytes and (used := self._queue.pop()) is not None:
            slot, written = used
            filled += self._take_slot(slot, written, into[filled:])
        return filled

    def _take_slot(self, slot: int, written: int, into: memoryview) -> int:
        asked = self._asked.pop(slot)
        self._free.append(slot)
        start, length = slot * REQUEST_BYTES, min(written, into.nbytes)
        into[:length] = self._memory.view[start : start + length]
        # What may become a key does not stay where the device can reach it.
        ctypes.memset(self._memory.vaddr + start, 0, asked)
        if not written:
            raise DeviceError(f"the device answered a request for {asked} random bytes with none", section="5.4.6.2")
        return length
