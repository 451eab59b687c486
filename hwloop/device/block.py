"""What is the same for every block device, however its requests travel: ranges, long transfers, tokens, waits."""

from __future__ import annotations

import errno
import threading
import time
from abc import abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hwloop.deadline import REQUEST_SECONDS, Deadline
from hwloop.device.base import BlockDriverOps, Driver
from hwloop.device.blk_limits import BlkLimits
from hwloop.device.blk_protocol import RequestType
from hwloop.device.blk_request import DIRECTIONS, Request
from hwloop.device.byte_access import ByteAccess
from hwloop.device.byte_range import RangeLock
from hwloop.device.patience import Patience
from hwloop.errors import (
    DeviceClosed,
    DeviceError,
    DeviceLost,
    DriverError,
    HwloopError,
    InvalidParam,
    NotReady,
    QueueFull,
    ReadOnlyDisk,
    WrongToken,
)
from hwloop.hal.base import BufferDirection, Hal
from hwloop.spec import SECTOR_SIZE, PhysAddr

if TYPE_CHECKING:
    from typing_extensions import Buffer

LARGEST_TRANSFER = 2 << 20
"""Bytes of one request at most. A device may have to split it into pages, and QEMU gives up behind 1024 pieces; smaller
ones cost more of Python for each byte."""
_SLICE_SECONDS = 0.01


class BlockDevice(ByteAccess, Driver, BlockDriverOps):
    """A disk of requests that are submitted, complete in any order, and are known by tokens.

    Positions are sectors of 512 bytes, whatever the block size; lengths are bytes, whole blocks. `pread`, `pwrite` and
    `raw` take bytes of any alignment instead. May be used from several threads: calls that submit or complete take a
    lock; a wait does not hold it.

    A subclass sets `_capacity` and `_block_size`, and puts requests on their way: the abstract methods with an
    underscore, all of which are called with the lock held.
    """

    _request_seconds = REQUEST_SECONDS
    _may_come_back = False
    _capacity: int
    _block_size: int

    def __init__(self, hal: Hal) -> None:
        super().__init__(hal)
        self._lock = threading.RLock()
        self._in_flight: dict[int, Request] = {}
        self._done: dict[int, Request] = {}
        self._next_token = 1
        self._broken: str = ""
        self._cause: HwloopError | None = None
        self._ranges = RangeLock()

    # --- What it is ---------------------------------------------------------------------------------------------------

    def capacity(self) -> int:
        """The size of the device in sectors of 512 bytes."""
        return self._capacity

    def block_size(self) -> int:
        """The size of a logical block in bytes: a power of two from 512 on."""
        return self._block_size

    def num_blocks(self) -> int:
        """The number of whole blocks in the device."""
        return self._capacity * SECTOR_SIZE // self._block_size

    def size(self) -> int:
        """The size of the device in bytes."""
        return self._capacity * SECTOR_SIZE

    @abstractmethod
    def readonly(self) -> bool:
        """Whether the device refuses writes."""

    @abstractmethod
    def max_transfer(self) -> int:
        """The most bytes that one request carries, whole blocks; longer reads and writes are split."""

    @property
    def limits(self) -> BlkLimits:
        """What the device says of its own limits, in bytes, as it was when the device was opened."""
        return BlkLimits(self._block_size, self.max_transfer())

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features that were negotiated, in the order of their bits."""
        return ()

    @contextmanager
    def transfer_memory(self, size: int) -> Iterator[Buffer]:
        """Writable memory of `size` bytes for requests of a long transfer: in place, where the driver can."""
        yield bytearray(size)

    def end_of_piece(self, position: int, end: int) -> int:
        """Where a request that begins at byte `position` has to end, at `end` at the latest: long transfers are split
        there."""
        return min(end, position + self.max_transfer())

    @property
    @abstractmethod
    def requests_free(self) -> int:
        """How many more small requests fit."""

    @abstractmethod
    def device_id(self) -> str:
        """The device's serial. Raises Unsupported when it has none."""

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

    def read_block(self, block_id: int, buf: Buffer) -> None:
        self.read_into(self._sector_of(block_id), buf)

    def write_block(self, block_id: int, buf: Buffer) -> None:
        self.write(self._sector_of(block_id), buf)

    # --- Many at once -------------------------------------------------------------------------------------------------

    def submit_read(self, sector: int, length: int) -> int:
        """Start a read of at most `max_transfer()` bytes; returns its token. Raises QueueFull, and as `read`."""
        self._check_range(sector, length, errno.EINVAL)
        return self._submit(RequestType.IN, sector, bytearray(length))

    def submit_read_into(self, sector: int, buffer: Buffer) -> int:
        """As `submit_read`, into a writable buffer: it is filled once the request has completed, and `complete` gives
        b"". Memory of `alloc` is read into in place; leave it alone until then."""
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise InvalidParam("the buffer to read into cannot be written", remedy="give a bytearray")
        self._check_range(sector, view.nbytes, errno.EINVAL)
        return self._submit(RequestType.IN, sector, view)

    def submit_write(self, sector: int, data: Buffer) -> int:
        """Start a write of at most `max_transfer()` bytes, which are copied at once; returns its token. Memory of
        `alloc` is written in place: leave it alone until the request has completed."""
        view = memoryview(data).cast("B")
        self._check_writable()
        self._check_range(sector, view.nbytes, errno.ENOSPC)
        return self._submit(RequestType.OUT, sector, view)

    @abstractmethod
    def submit_flush(self) -> int:
        """Start a flush; returns its token. Raises Unsupported where the device knows no such request."""

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
        is_answer = DIRECTIONS.get(request.kind) is BufferDirection.DeviceToDriver
        return bytes(request.data) if is_answer and isinstance(request.data, bytearray) else b""

    def wait(self, token: int, seconds: float | None = None) -> bytes:
        """Wait for a request and take its result, as `complete`.

        When it does not complete within `seconds` (default: `request_seconds`), the device is reset: this and all
        other requests in flight fail, and the disk is out of order until `recover`. Raises DeadlineExpired.
        """
        patience = Patience(Deadline(self._request_seconds if seconds is None else seconds))
        while True:
            try:
                return self.complete(token)
            except NotReady:
                self._wait_or_give_up(token, patience)

    def wait_any(self, tokens: Collection[int], seconds: float | None = None) -> list[int]:
        """Wait until one of these requests at least has completed, and return which have; `complete` takes the results.

        Deadline and errors as `wait`; raises WrongToken when none of them is in flight.
        """
        patience = Patience(Deadline(self._request_seconds if seconds is None else seconds))
        stood_back = False
        while True:
            # One lock over both: what another thread finds for us in between would be waited for in vain.
            with self._lock:
                found = self._completed_of(tokens)
                if found:
                    return found
                # What is done is for other threads, which need the lock to take it.
                stood_back = bool(self._done) and not stood_back
                if not stood_back:
                    self._wait_a_little(patience)
            if stood_back:
                time.sleep(0)

    def new_patience(self) -> Patience:
        """How long a request may take, from now on; for `look_after`."""
        return Patience(Deadline(self._request_seconds))

    def look_after(self, patience: Patience) -> None:
        """For a caller that waits for a request in a way of its own: from time to time, what `wait` does on the way.

        Does not wait. Raises DeadlineExpired and DeviceLost as `wait`: everything in flight has failed then.
        """
        self._wait_a_little(patience, 0.0)

    def check_read(self, sector: int, length: int) -> None:
        """Raises what `read` raises for these arguments, and sends nothing."""
        self._check_range(sector, length, errno.EINVAL)

    def check_write(self, sector: int, length: int) -> None:
        """Raises what `write` raises for these arguments, and sends nothing."""
        self._check_writable()
        self._check_range(sector, length, errno.ENOSPC)

    def abandon(self, token: int) -> None:
        """Nobody will ask for this result: drop it, now or when it comes. Idempotent; the device still does it."""
        with self._lock:
            self._done.pop(token, None)
            if token in self._in_flight:
                self._in_flight[token].wanted = False

    def disown(self) -> None:
        # Another thread of the parent may have the lock for ever.
        self._lock = threading.RLock()
        self._broken = "the disk belongs to the process that opened it, and this is its child"
        super().disown()

    def give_up(self, why: str) -> None:
        """As of every device: the device is reset. `recover` undoes it."""
        self._give_up(DeviceLost(why))

    def check_working(self) -> None:
        """Raises DeviceLost while the disk is out of order, DeviceClosed once it is closed."""
        if self._broken:
            raise self._out_of_order()

    @abstractmethod
    def recover(self) -> None:
        """Use a disk again that is out of order: initialise its device once more. What was in flight has failed; a disk
        that works fails what is in flight first.

        Raises DeviceClosed after `close`, DeviceLost where the device may still write our memory, and as opening it.
        """

    def close(self) -> None:
        with self._lock:
            self._broken = self._broken or "the disk is closed"
            super().close()

    # --- For a subclass to say ----------------------------------------------------------------------------------------

    @abstractmethod
    def _has_room(self, length: int) -> bool:
        """Whether a request of so many bytes has a place."""

    @abstractmethod
    def _enqueue(self, request: Request, token: int) -> None:
        """Write the request where the device will find it. When it raises, `_release` undoes what it did."""

    def _has_enqueued(self, token: int) -> bool | None:
        """Whether the device has a request whose `_enqueue` was interrupted; None: it is not known."""
        return None

    @abstractmethod
    def _make_available(self) -> None:
        """Tell the device of what was enqueued. Raises OSError when that cannot be done."""

    @abstractmethod
    def _notify_again(self) -> None:
        """Remind a device that is slow, in case a notification was lost."""

    @abstractmethod
    def _take_completions(self) -> None:
        """`_settle` every request that the device has completed. Raises DeviceError for what cannot be believed."""

    @abstractmethod
    def _wait_for_completion(self, seconds: float) -> bool:
        """Wait at most so long; True when there is something for `_take_completions`."""

    @abstractmethod
    def _fault(self) -> str:
        """What the registers of the device say is wrong with it, or "". Raises OSError when they cannot be read."""

    def _look_for_events(self) -> None:
        """See whether the capacity is another one by now."""

    def _come_back(self) -> bool:
        """Whether the device, which is gone, was found again with everything in flight on its way once more.

        Raises what keeps it from that.
        """
        return False

    @abstractmethod
    def _diagnosis(self) -> Iterator[str]:
        """What a person wants to see who asks why a request did not complete."""

    # --- Private: submitting ------------------------------------------------------------------------------------------

    def _submit(
        self,
        kind: RequestType,
        sector: int,
        data: bytearray | memoryview | None,
        *,
        answer: bytearray | None = None,
        listed: bool = True,
    ) -> int:
        length = len(data) if data is not None else 0
        with self._lock:
            self.check_working()
            if length > self.max_transfer():
                raise InvalidParam(
                    f"{length} bytes are more than one request carries", remedy=f"split at {self.max_transfer()}"
                )
            self._make_room(length)
            request = Request(kind, sector, data, answer=answer, listed=listed)
            token = self._next_token
            self._next_token += 1
            self._in_flight[token] = request
            try:
                self._enqueue(request, token)
            except Exception:
                del self._in_flight[token]
                self._release(request, copy=False)
                raise
            except BaseException:
                self._settle_interrupted(request, token)
                raise
            self._publish(request)
            return token

    def _settle_interrupted(self, request: Request, token: int) -> None:
        """A signal came while a request was put into the queue, and its caller will never see the token."""
        enqueued = self._has_enqueued(token)
        if enqueued is None:
            self._give_up(DeviceLost("a signal came while a request was put into the queue", remedy="open it again"))
        elif enqueued:
            # The device does it, and a notification that was lost with it is made up for by whoever waits next.
            request.wanted = False
        else:
            del self._in_flight[token]
            self._release(request, copy=False)

    def _make_room(self, length: int) -> None:
        """Completions that nobody has looked at hold places too. Raises QueueFull."""
        for look in (False, True):
            if look:
                self._reap()
            if self._has_room(length):
                return
        raise QueueFull

    def _publish(self, request: Request | None) -> None:
        """`request` is the one whose caller will never see a token if this fails."""
        try:
            self._make_available()
        except OSError as failure:
            if request is not None:
                request.wanted = False
            if isinstance(failure, DriverError):
                # Not the device's fault, such as a driver that does not follow the recording it runs on.
                self._give_up(failure)
                raise
            error = DeviceLost(f"the device cannot be notified: {failure.strerror}", remedy="open it again")
            error.__cause__ = failure
            self._give_up(error)
            raise error from failure

    def _share(self, request: Request) -> PhysAddr:
        """Let the device reach the data of a request, which has some."""
        assert request.data is not None
        request.paddr = self._share_for(request.data, DIRECTIONS[request.kind])
        return request.paddr

    def _share_for(self, data: Buffer, direction: BufferDirection) -> PhysAddr:
        """Raises DmaError before an address is in the ring that the device must not have: QEMU would not object."""
        paddr = self.hal.share(data, direction)
        self.hal.check_address(paddr, memoryview(data).nbytes)
        return paddr

    def _run(
        self,
        kind: RequestType,
        sector: int,
        data: bytearray | memoryview | None,
        *,
        answer: bytearray | None = None,
    ) -> bytes:
        """Submit one request, waiting for a place, and wait for its end; `answer` is filled with what the device
        writes besides data and status."""
        patience = Patience(Deadline(self._request_seconds))
        while True:
            try:
                token = self._submit(kind, sector, data, answer=answer, listed=False)
                break
            except QueueFull:
                self._wait_a_little(patience)
        try:
            return self.wait(token)
        except BaseException:
            self.abandon(token)
            raise

    def _run_split(self, kind: RequestType, sector: int, view: memoryview) -> None:
        """A transfer of any length, as requests that the device takes, one after the other."""
        start = position = sector * SECTOR_SIZE
        end = start + view.nbytes
        while position < end:
            stop = self.end_of_piece(position, end)
            self._run(kind, position // SECTOR_SIZE, view[position - start : stop - start])
            position = stop

    # --- Private: completing ------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Move everything that the device has used to `_done`."""
        if self._broken:
            return
        try:
            self._take_completions()
        except DeviceError as error:
            self._give_up(error)
            raise

    def _settle(self, token: int, error: HwloopError | None) -> None:
        """A request is over: `error` says how it failed."""
        request = self._in_flight.pop(token)
        request.error = error
        if error is None and self._may_come_back:
            self._overtake(token, request)
        self._release(request, copy=error is None)
        if request.wanted:
            self._done[token] = request

    def _overtake(self, token: int, done: Request) -> None:
        """Note which older writes must not be sent again now, since they would undo this one."""
        for older, request in self._in_flight.items():
            if older > token:
                return
            request.overtaken = request.overtaken or request.changes_what(done)

    def _release(self, request: Request, *, copy: bool) -> None:
        """End the sharing of a request's buffers."""
        if request.in_place:
            # Nobody but the caller has it any more, who may close it.
            request.data = None
        elif request.paddr is not None and request.data is not None:
            direction = DIRECTIONS[request.kind] if copy else BufferDirection.DriverToDevice
            self.hal.unshare(request.paddr, request.data, direction)
        if request.answer_paddr is not None and request.answer is not None:
            direction = BufferDirection.DeviceToDriver if copy else BufferDirection.DriverToDevice
            self.hal.unshare(request.answer_paddr, request.answer, direction)

    def _completed_of(self, tokens: Collection[int]) -> list[int]:
        """Raises WrongToken when none of them has completed or is in flight."""
        found = [token for token in self.poll() if token in tokens]
        if not found and not any(token in self._in_flight for token in tokens):
            raise WrongToken("none of the requests that are waited for is in flight")
        return found

    def _not_done(self, token: int) -> HwloopError:
        if token in self._in_flight:
            return NotReady(f"request {token} has not completed yet")
        return WrongToken(f"no request has the token {token}, or its result was taken already")

    def _wait_or_give_up(self, token: int, patience: Patience) -> None:
        with self._lock:
            # Another thread may have taken its completion since we looked; nothing would wake us then.
            if token in self._done:
                return
            try:
                self._wait_a_little(patience)
            except HwloopError:
                self.abandon(token)
                raise

    def _wait_a_little(self, patience: Patience, most: float = _SLICE_SECONDS) -> None:
        """Wait a few milliseconds for a completion; other threads get their turn between two calls.

        A device that is slow is notified once more, since a lost notification must not cost the request. One that is
        too slow, that asks to be reset or that is gone is reset, everything in flight fails, and the error is raised.
        """
        with self._lock:
            self.check_working()
            if patience.is_over():
                raise self._out_of_time(patience.deadline)
            if self._wait_for_completion(min(most, patience.deadline.remaining())):
                self._reap()
                return
            if self._check_alive():
                patience.begin_again()
            if patience.wants_another_notification():
                self._notify_again()

    def _check_alive(self) -> bool:
        """Look at the status of a device that keeps us waiting; True when it had gone and has come back.

        Raises DeviceLost.
        """
        try:
            fault = self._memory_fault() or self._fault()
            if not fault:
                self._look_for_events()
        except OSError as failure:
            fault = f"the device does not answer: {failure.strerror}"
        if not fault:
            return False
        if self._found_again():
            return True
        error = DeviceLost(fault, remedy="open it again")
        self._give_up(error)
        raise error

    def _found_again(self) -> bool:
        try:
            return self._come_back()
        except HwloopError as error:
            self._give_up(error)
            raise
        except BaseException:
            self._give_up(DeviceLost("a signal came while the device was being found again", remedy="open it again"))
            raise

    def _out_of_time(self, deadline: Deadline) -> HwloopError:
        error = deadline.error(
            "a request to complete", remedy="it was taken from the device; recover the disk, or open it again"
        )
        for note in self._diagnosis():
            error.add_note(note)
        self._give_up(error)
        return error

    def _give_up(self, error: HwloopError) -> None:
        """The one way from a device that cannot be trusted: take everything in flight from it, and only then let go of
        the buffers; nothing works until `recover`."""
        with self._lock:
            if self._broken:
                return
            self._broken, self._cause = f"the disk is out of order since: {error.problem}", error
            try:
                self._silence()
            except HwloopError as failure:
                raise failure from error
            finally:
                self._abandon_requests()

    def _silence(self) -> None:
        """Take from the device what is in flight. Unless that is known to have worked, no memory is used again."""
        self._reset_for_good()

    def _abandon_requests(self) -> None:
        """Fail everything in flight. Its memory goes back to the Hal, which keeps it if the reset did not work."""
        for token, request in self._in_flight.items():
            request.error = self._out_of_order()
            self._release(request, copy=False)
            if request.wanted:
                self._done[token] = request
        self._in_flight.clear()

    def _out_of_order(self) -> HwloopError:
        if self._cause is None:
            return DeviceClosed(self._broken, remedy="open it again")
        error = DeviceLost(self._broken, remedy="recover it, or open it again")
        error.__cause__ = self._cause
        return error

    # --- Private: arguments -------------------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        if self.readonly():
            raise ReadOnlyDisk("the disk is read-only; nothing was sent")

    def _check_range(self, sector: int, length: int, beyond: int) -> None:
        block = self._block_size
        if sector < 0 or sector * SECTOR_SIZE % block:
            raise InvalidParam(f"sector {sector} does not begin a block of {block} bytes")
        if length <= 0 or length % block:
            raise InvalidParam(f"a length of {length} bytes is not one or more blocks of {block} bytes")
        if sector + length // SECTOR_SIZE > self._capacity and not self._has_grown(sector + length // SECTOR_SIZE):
            raise InvalidParam(
                f"{length} bytes at sector {sector} end behind the disk, which has {self._capacity} sectors",
                errno=beyond,
            )

    def _has_grown(self, end: int) -> bool:
        """Whether the disk has so many sectors by now: nobody may have waited since it was told a new capacity."""
        with self._lock:
            self.check_working()
            self._look_for_events()
        return end <= self._capacity

    def _sector_of(self, block_id: int) -> int:
        return block_id * (self._block_size // SECTOR_SIZE)
