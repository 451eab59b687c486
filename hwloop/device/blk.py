"""The block device (VIRTIO 1.4, 5.2)."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Self

from hwloop.config import ReadOnly, read_config
from hwloop.deadline import REQUEST_SECONDS, Deadline
from hwloop.device.base import BlockDriverOps, Device
from hwloop.device.blk_protocol import (
    DEVICE_ID_BYTES,
    HEADER_BYTES,
    STATUS_NOT_WRITTEN,
    BlkConfig,
    RequestType,
    RespStatus,
    checked_block_size,
)
from hwloop.device.blk_request import DIRECTIONS, Patience, Request, Slots
from hwloop.errors import (
    DeviceClosed,
    DeviceError,
    DeviceLost,
    HwloopError,
    InvalidParam,
    IoError,
    NotReady,
    QueueFull,
    ReadOnlyDisk,
    Unsupported,
    WrongToken,
)
from hwloop.hal.base import BufferDirection, Hal
from hwloop.queue import Part
from hwloop.spec import SECTOR_SIZE, BlkFeature, DeviceStatus, Feature, PhysAddr
from hwloop.transport.base import Transport

if TYPE_CHECKING:
    from typing_extensions import Buffer

LARGEST_TRANSFER = 1 << 20
"""Bytes of one request at most. A device may have to split it into pages, and QEMU gives up behind 1024 pieces."""
_MOST_REQUESTS = 256
_LEAST_DESCRIPTORS = 3
"""Header, data, status: what a read or a write needs of the queue."""
_SLICE_SECONDS = 0.01


class VirtioBlk(Device, BlockDriverOps):
    """The VirtIO block device driver.

    Positions are sectors of 512 bytes, whatever the block size; lengths are bytes, whole blocks. One request queue.
    May be used from several threads: calls that submit or complete take a lock; a wait does not hold it.

    `request_seconds` is how long one request may take before the device is reset and everything in flight fails.
    """

    SUPPORTED_FEATURES = (
        BlkFeature.SIZE_MAX
        | BlkFeature.SEG_MAX
        | BlkFeature.GEOMETRY
        | BlkFeature.RO
        | BlkFeature.BLK_SIZE
        | BlkFeature.FLUSH
        | BlkFeature.TOPOLOGY
        | BlkFeature.CONFIG_WCE
        | Feature.VERSION_1
        | Feature.ACCESS_PLATFORM
        | Feature.ORDER_PLATFORM
    )

    def __init__(self, transport: Transport, hal: Hal, *, request_seconds: float = REQUEST_SECONDS) -> None:
        self._request_seconds = request_seconds
        self._lock = threading.RLock()
        self._in_flight: dict[int, Request] = {}
        self._done: dict[int, Request] = {}
        self._next_token = 1
        self._broken: str = ""
        self._cause: HwloopError | None = None
        super().__init__(transport, hal)

    @classmethod
    def try_new(cls, transport: Transport, hal: Hal) -> Self:
        """Creates a new driver instance and initialises the device, or raises if any step fails (seed 000)."""
        return cls(transport, hal)

    def _set_up(self) -> None:
        self._capacity, self._block_size = self.transport.read_consistent(self._read_geometry)
        self._queue = self._add_queue(0)
        if self._queue.size < _LEAST_DESCRIPTORS:
            raise Unsupported(f"queue 0 has {self._queue.size} descriptors; a read needs {_LEAST_DESCRIPTORS}")
        # A limit of 0 says nothing: for segments Linux then takes 1 (drivers/block/virtio_blk.c).
        self._size_max = self._limit(BlkFeature.SIZE_MAX, BlkConfig.size_max) or LARGEST_TRANSFER
        seg_max = self._limit(BlkFeature.SEG_MAX, BlkConfig.seg_max)
        self._segments_at_most = self._queue.size - 2 if seg_max is None else min(seg_max or 1, self._queue.size - 2)
        if self._size_max * self._segments_at_most < self._block_size:
            raise Unsupported(
                f"a request of this device carries {self._segments_at_most} segments of {self._size_max} bytes, "
                f"less than one block of {self._block_size}"
            )
        count = min(_MOST_REQUESTS, self._queue.size // 2)
        headers = self._add_buffer(count * HEADER_BYTES, BufferDirection.DriverToDevice)
        statuses = self._add_buffer(count, BufferDirection.DeviceToDriver)
        self._slots = Slots(headers, statuses, list(range(count)))

    def _read_geometry(self) -> tuple[int, int]:
        capacity = read_config(self.transport, BlkConfig.capacity)
        if not self.negotiated & BlkFeature.BLK_SIZE:
            return capacity, SECTOR_SIZE
        return capacity, checked_block_size(read_config(self.transport, BlkConfig.blk_size))

    def _limit(self, feature: BlkFeature, source: ReadOnly) -> int | None:
        """What the device says, or None when the feature that makes the field exist was not negotiated."""
        return read_config(self.transport, source) if self.negotiated & feature else None

    # --- What it is ---------------------------------------------------------------------------------------------------

    def device_name(self) -> str:
        return "virtio-blk"

    def capacity(self) -> int:
        """The size of the device in sectors of 512 bytes."""
        return self._capacity

    def block_size(self) -> int:
        """The size of a logical block in bytes: 512 to 65536."""
        return self._block_size

    def num_blocks(self) -> int:
        """The number of whole blocks in the device."""
        return self._capacity * SECTOR_SIZE // self._block_size

    def size(self) -> int:
        """The size of the device in bytes."""
        return self._capacity * SECTOR_SIZE

    def readonly(self) -> bool:
        """Whether the device refuses writes (VIRTIO_BLK_F_RO)."""
        return bool(self.negotiated & BlkFeature.RO)

    def max_transfer(self) -> int:
        """The most bytes that one request carries; longer reads and writes are split."""
        most = min(LARGEST_TRANSFER, self._size_max * self._segments_at_most)
        return most // self._block_size * self._block_size

    # --- A request at a time ------------------------------------------------------------------------------------------

    def read(self, sector: int, length: int) -> bytes:
        """Read `length` bytes, a multiple of the block size, from `sector` on.

        Raises InvalidParam for a range that is not whole blocks or not on the device, IoError, DeviceLost,
        DeadlineExpired.
        """
        self._check_range(sector, length, errno.EINVAL)
        data = bytearray(length)
        self._run_split(RequestType.IN, sector, memoryview(data))
        return bytes(data)

    def read_into(self, sector: int, buffer: Buffer) -> None:
        """As `read`, into a writable buffer."""
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise InvalidParam("the buffer to read into cannot be written", remedy="give a bytearray")
        self._check_range(sector, view.nbytes, errno.EINVAL)
        self._run_split(RequestType.IN, sector, view)

    def write(self, sector: int, data: Buffer) -> None:
        """Write whole blocks from `sector` on; `flush` makes them durable. Raises as `read`, and ReadOnlyDisk."""
        view = memoryview(data).cast("B")
        self._check_writable()
        self._check_range(sector, view.nbytes, errno.ENOSPC)
        self._run_split(RequestType.OUT, sector, view)

    def flush(self) -> None:
        """Returns when all writes that completed before are durable.

        A device without VIRTIO_BLK_F_FLUSH has no volatile cache (VIRTIO 1.4, 5.2.5.1), so there is nothing to send.
        """
        if self.negotiated & BlkFeature.FLUSH:
            self._run(RequestType.FLUSH, 0, None)

    def device_id(self) -> str:
        """The device's serial: up to 20 characters. Raises Unsupported when it has none (VIRTIO 1.4, 5.2.6.1)."""
        data = self._run(RequestType.GET_ID, 0, bytearray(DEVICE_ID_BYTES))
        return data.split(b"\0", 1)[0].decode("ascii", "backslashreplace")

    def read_block(self, block_id: int, buf: Buffer) -> None:
        self.read_into(self._sector_of(block_id), buf)

    def write_block(self, block_id: int, buf: Buffer) -> None:
        self.write(self._sector_of(block_id), buf)

    # --- Many at once -------------------------------------------------------------------------------------------------

    def submit_read(self, sector: int, length: int) -> int:
        """Start a read of at most `max_transfer()` bytes; returns its token. Raises QueueFull, and as `read`."""
        self._check_range(sector, length, errno.EINVAL)
        return self._submit(RequestType.IN, sector, bytearray(length))

    def submit_write(self, sector: int, data: Buffer) -> int:
        """Start a write of at most `max_transfer()` bytes, which are copied at once; returns its token."""
        view = memoryview(data).cast("B")
        self._check_writable()
        self._check_range(sector, view.nbytes, errno.ENOSPC)
        return self._submit(RequestType.OUT, sector, view)

    def submit_flush(self) -> int:
        """Start a flush; returns its token. Raises Unsupported without VIRTIO_BLK_F_FLUSH."""
        if not self.negotiated & BlkFeature.FLUSH:
            raise Unsupported("the device has no VIRTIO_BLK_F_FLUSH, so it cannot be asked to flush")
        return self._submit(RequestType.FLUSH, 0, None)

    def poll(self) -> list[int]:
        """The tokens of all submitted requests that have completed and whose result was not taken yet."""
        with self._lock:
            self._reap()
            return [token for token, request in self._done.items() if request.listed]

    def peek_used(self) -> int | None:
        """The token of one completed request, or None."""
        return next(iter(self.poll()), None)

    def complete(self, token: int) -> bytes:
        """Take the result of a completed request: what was read, or b"".

        Raises NotReady while it is in flight, WrongToken, and what the request failed with.
        """
        with self._lock:
            self._reap()
            request = self._done.pop(token, None)
            if request is None:
                raise self._not_done(token)
        if request.error is not None:
            raise request.error
        return bytes(request.data) if request.kind in (RequestType.IN, RequestType.GET_ID) and request.data else b""

    def wait(self, token: int, seconds: float | None = None) -> bytes:
        """Wait for a request and take its result, as `complete`.

        When it does not complete within `seconds` (default: `request_seconds`), the device is reset: this and all
        other requests in flight fail, and the disk has to be opened again. Raises DeadlineExpired.
        """
        patience = Patience(Deadline(self._request_seconds if seconds is None else seconds))
        while True:
            try:
                return self.complete(token)
            except NotReady:
                self._wait_or_give_up(token, patience)

    def abandon(self, token: int) -> None:
        """Nobody will ask for this result: drop it, now or when it comes. Idempotent; the device still does it."""
        with self._lock:
            self._done.pop(token, None)
            if token in self._in_flight:
                self._in_flight[token].wanted = False

    @property
    def requests_free(self) -> int:
        """How many more requests of one segment fit."""
        return min(len(self._slots.free), self._queue.free // _LEAST_DESCRIPTORS)

    def close(self) -> None:
        with self._lock:
            self._broken = self._broken or "the disk is closed"
            super().close()

    # --- Private: submitting ------------------------------------------------------------------------------------------

    def _submit(
        self, kind: RequestType, sector: int, data: bytearray | memoryview | None, *, listed: bool = True
    ) -> int:
        length = len(data) if data is not None else 0
        with self._lock:
            self._check_working()
            if length > self.max_transfer():
                raise InvalidParam(
                    f"{length} bytes are more than one request carries", remedy=f"split at {self.max_transfer()}"
                )
            self._make_room(2 + len(range(0, length, self._size_max)))
            request = Request(kind, self._slots.free.pop(), sector, data, listed=listed)
            token = self._next_token
            try:
                self._enqueue(request, token)
            except BaseException:
                self._release(request, copy=False)
                raise
            self._next_token += 1
            self._in_flight[token] = request
            self._make_available(request)
            return token

    def _make_room(self, descriptors: int) -> None:
        """Completions that nobody has looked at hold places too. Raises QueueFull."""
        for look in (False, True):
            if look:
                self._reap()
            if self._slots.free and self._queue.free >= descriptors:
                return
        raise QueueFull

    def _make_available(self, request: Request) -> None:
        try:
            self._queue.submit()
        except OSError as failure:
            request.wanted = False
            error = DeviceLost(f"the device cannot be notified: {failure.strerror}", remedy="open it again")
            error.__cause__ = failure
            self._give_up(error)
            raise error from failure

    def _enqueue(self, request: Request, token: int) -> None:
        self._slots.fill(request.slot, request.kind, request.sector)
        readable, writable = [self._slots.header(request.slot)], [self._slots.status(request.slot)]
        if request.data is not None:
            request.paddr = self.hal.share(request.data, DIRECTIONS[request.kind])
            segments = self._segments(request.paddr, len(request.data))
            if request.kind == RequestType.OUT:
                readable += segments
            else:
                writable = segments + writable
        if request.kind == RequestType.IN and request.data is not None:
            request.length = len(request.data)
        self._queue.add(readable, writable, token)

    def _segments(self, paddr: PhysAddr, length: int) -> list[Part]:
        """The data as descriptors of at most size_max bytes."""
        return [
            (PhysAddr(paddr + offset), min(self._size_max, length - offset))
            for offset in range(0, length, self._size_max)
        ]

    def _run(self, kind: RequestType, sector: int, data: bytearray | memoryview | None) -> bytes:
        """Submit one request, waiting for a place, and wait for its end."""
        patience = Patience(Deadline(self._request_seconds))
        while True:
            try:
                token = self._submit(kind, sector, data, listed=False)
                break
            except QueueFull:
                self._wait_a_little(patience)
        try:
            return self.wait(token)
        except BaseException:
            self.abandon(token)
            raise

    def _run_split(self, kind: RequestType, sector: int, view: memoryview) -> None:
        """A transfer of any length, as requests of at most `max_transfer()` bytes, one after the other."""
        step = self.max_transfer()
        for offset in range(0, view.nbytes, step):
            self._run(kind, sector + offset // SECTOR_SIZE, view[offset : offset + step])

    # --- Private: completing ------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Move everything that the device has used to `_done`."""
        if self._broken:
            return
        try:
            while (used := self._queue.pop()) is not None:
                self._finish(*used)
        except DeviceError as error:
            self._give_up(error)
            raise

    def _finish(self, token: int, written: int) -> None:
        request = self._in_flight.pop(token)
        request.error = self._verdict(request, written)
        self._release(request, copy=request.error is None)
        if request.wanted:
            self._done[token] = request

    def _verdict(self, request: Request, written: int) -> HwloopError | None:
        """What the device says of a request; the status byte first, since the length means nothing on an error."""
        status = self._slots.statuses.view[request.slot]
        where = f"{request.kind.name} at sector {request.sector}"
        if status == RespStatus.OK:
            if written >= request.length + 1:
                return None
            return IoError(
                f"{where}: the device reports success but wrote {written} of {request.length + 1} bytes",
                section="2.7.8.2",
            )
        if status == RespStatus.IO_ERR:
            return IoError(f"{where}: the device reports an I/O error", section="5.2.6")
        if status == RespStatus.UNSUPPORTED:
            return IoError(
                f"{where}: the device does not support this request", errno=errno.EOPNOTSUPP, section="5.2.6"
            )
        if status == STATUS_NOT_WRITTEN:
            return IoError(f"{where}: the device did not write the status of the request", section="5.2.6")
        return IoError(f"{where}: the device wrote the undefined status {status:#x}", section="5.2.6")

    def _release(self, request: Request, *, copy: bool) -> None:
        """End the sharing of a request's buffer, and free its slot."""
        if request.paddr is not None and request.data is not None:
            direction = DIRECTIONS[request.kind] if copy else BufferDirection.DriverToDevice
            self.hal.unshare(request.paddr, request.data, direction)
        self._slots.free.append(request.slot)

    def _not_done(self, token: int) -> HwloopError:
        if token in self._in_flight:
            return NotReady(f"request {token} has not completed yet")
        return WrongToken(f"no request has the token {token}, or its result was taken already")

    def _wait_or_give_up(self, token: int, patience: Patience) -> None:
        try:
            self._wait_a_little(patience)
        except HwloopError:
            self.abandon(token)
            raise

    def _wait_a_little(self, patience: Patience) -> None:
        """Wait a few milliseconds for a completion; other threads get their turn between two calls.

        A device that is slow is notified once more, since a lost notification must not cost the request. One that is
        too slow, that asks to be reset or that is gone is reset, everything in flight fails, and the error is raised.
        """
        with self._lock:
            self._check_working()
            if patience.is_over():
                raise self._out_of_time(patience.deadline)
            if self._queue.wait(min(_SLICE_SECONDS, patience.deadline.remaining())):
                self._reap()
                return
            self._check_alive()
            if patience.wants_another_notification():
                self._queue.notify()

    def _check_alive(self) -> None:
        """Look at the status of a device that keeps us waiting. Raises DeviceLost (VIRTIO 1.4, 2.1.2)."""
        try:
            fault = _fault_of(self.transport.get_status())
        except OSError as failure:
            fault = f"the device does not answer: {failure.strerror}"
        if fault:
            error = DeviceLost(fault, remedy="open it again")
            self._give_up(error)
            raise error

    def _out_of_time(self, deadline: Deadline) -> HwloopError:
        error = deadline.error("a request to complete", remedy="the device was reset; open it again")
        error.add_note(self._queue.dump())
        error.add_note(self._diagnosis())
        self._give_up(error)
        return error

    def _diagnosis(self) -> str:
        try:
            return f"device status: {self.transport.get_status()!r}"
        except OSError as failure:
            return f"device status: unreadable ({failure})"

    def _give_up(self, error: HwloopError) -> None:
        """Reset the device, and only then let go of the buffers of what was in flight; nothing works afterwards."""
        with self._lock:
            if self._broken:
                return
            self._broken, self._cause = f"the disk is out of order since: {error.problem}", error
            try:
                self._reset_for_good()
            except HwloopError as failure:
                raise failure from error
            finally:
                self._abandon_requests()

    def _abandon_requests(self) -> None:
        """Fail everything in flight. Its memory goes back to the Hal, which keeps it if the reset did not work."""
        for token, request in self._in_flight.items():
            request.error = self._out_of_order()
            self._release(request, copy=False)
            if request.wanted:
                self._done[token] = request
        self._in_flight.clear()

    def _check_working(self) -> None:
        if self._broken:
            raise self._out_of_order()

    def _out_of_order(self) -> HwloopError:
        if self._cause is None:
            return DeviceClosed(self._broken, remedy="open it again")
        error = DeviceLost(self._broken, remedy="open it again")
        error.__cause__ = self._cause
        return error

    # --- Private: arguments -------------------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        if self.readonly():
            raise ReadOnlyDisk("the disk is read-only (VIRTIO_BLK_F_RO); nothing was sent")

    def _check_range(self, sector: int, length: int, beyond: int) -> None:
        block = self._block_size
        if sector < 0 or sector * SECTOR_SIZE % block:
            raise InvalidParam(f"sector {sector} does not begin a block of {block} bytes")
        if length <= 0 or length % block:
            raise InvalidParam(f"a length of {length} bytes is not one or more blocks of {block} bytes")
        if sector + length // SECTOR_SIZE > self._capacity:
            raise InvalidParam(
                f"{length} bytes at sector {sector} end behind the disk, which has {self._capacity} sectors",
                errno=beyond,
            )

    def _sector_of(self, block_id: int) -> int:
        return block_id * (self._block_size // SECTOR_SIZE)


VirtIoBlkDev = VirtioBlk
"""The name that seed 000 gives the driver."""


def _fault_of(status: DeviceStatus) -> str:
    """What a device's status says is wrong with a device that was ready, or ""."""
    if status & DeviceStatus.DEVICE_NEEDS_RESET:
        return f"the device met an error and asks to be reset: its status is {status!r}"
    if not status & DeviceStatus.DRIVER_OK:
        return f"somebody else reset the device, or turned off its bus mastering: its status is {status!r}"
    return ""
