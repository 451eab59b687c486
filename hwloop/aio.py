"""A disk for asyncio: thousands of requests outstanding, and one callback of the event loop for many of them.

    import asyncio, hwloop

    async def main() -> None:
        async with hwloop.aopen("0000:00:05.0?wait=adaptive") as disk:
            blocks = await asyncio.gather(*(disk.read(sector, 512) for sector in range(1000)))

    asyncio.run(main())

Requests that are made in one turn of the loop are sent together, and what has completed by the next turn is told
together. Where the device has an interrupt with a descriptor the loop sleeps on it; else it looks at the device in
every turn, and less often while nothing completes. Other tasks are never kept waiting for the device.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from hwloop import session
from hwloop.aio_queue import AsyncQueue
from hwloop.device.base import Device
from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_queue import BlkQueue
from hwloop.device.blk_ranges import BlkRanges
from hwloop.device.block import BlockDevice
from hwloop.errors import DeviceClosed, HwloopError, InvalidParam, QueueFull, Unsupported
from hwloop.queue import VirtQueue
from hwloop.spec import SECTOR_SIZE

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hwloop.target import Target

T = TypeVar("T")

_WATCH_SECONDS = 0.05
"""How often a device that keeps requests is looked after."""
_EAGER_LOOKS = 200
"""So many looks in a row may bring nothing before the next one waits."""
_NAP_SECONDS = 0.0005


class AsyncDisk:
    """A disk for the tasks of one event loop: the one that runs when it is made. Calls may be awaited in any order and
    number; what the queue has no place for waits, the oldest first.

    A call that is cancelled before its request was sent sends none. One that was sent is done by the device all the
    same, and its memory is used for nothing else before that; a cancelled `read_into` leaves its buffer alone.

    `disk` is the driver. While requests are outstanding here, no other thread may wait for some of its own. `queues` is
    how the most of them can be done: an AsyncQueue for each of the device's, in place. The first one is shared with all
    other calls, and they wait for one another.
    """

    def __init__(self, disk: BlockDevice) -> None:
        self.disk = disk
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Request] = deque()
        self._sent: dict[int, _Request] = {}
        self._turn_due = False
        self._empty_looks = 0
        self._oldest, self._patience = 0, disk.new_patience()
        self._timers: list[asyncio.TimerHandle] = []
        self._armed = False
        self._queues = _selectable(disk)
        for queue in self._queues:
            self._loop.add_reader(queue.fileno(), self._interrupted)
        self._config_fd = _config_fd(disk)
        if self._config_fd is not None:
            self._loop.add_reader(self._config_fd, self._look_for_events)
        self._closed = False
        self._watching = False
        self.queues = [AsyncQueue(queue, self, virtqueue, self._loop) for queue, virtqueue in _fast_queues(disk)]

    # --- What it is ---------------------------------------------------------------------------------------------------

    def capacity(self) -> int:
        """The size of the device in sectors of 512 bytes."""
        return self.disk.capacity()

    def block_size(self) -> int:
        """The size of a logical block in bytes."""
        return self.disk.block_size()

    def size(self) -> int:
        """The size of the device in bytes."""
        return self.disk.size()

    def readonly(self) -> bool:
        """Whether the device refuses writes."""
        return self.disk.readonly()

    @property
    def outstanding(self) -> int:
        """Requests that the device has, those that nobody waits for any more too, and those that wait for a place."""
        return len(self._sent) + len(self._waiting)

    # --- Requests -----------------------------------------------------------------------------------------------------

    def read(self, sector: int, length: int) -> asyncio.Future[bytes]:
        """Read `length` bytes, whole blocks. Raises as `BlockDevice.read`; for a wrong argument at once."""
        self._check_open()
        self.disk.check_read(sector, length)
        if length > self.disk.max_transfer():
            return self._task(self._read_split(sector, length))
        return self._start(lambda: self.disk.submit_read(sector, length))

    def read_into(self, sector: int, buffer: Buffer) -> asyncio.Future[None]:
        """As `read`, into a writable buffer, which is filled when all of it has come."""
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise InvalidParam("the buffer to read into cannot be written", remedy="give a bytearray")
        self._check_open()
        self.disk.check_read(sector, view.nbytes)
        if view.nbytes > self.disk.max_transfer():
            return self._task(self._fill(sector, view))
        return self._start(lambda: self.disk.submit_read(sector, view.nbytes), lambda data: _copy(data, view))

    def write(self, sector: int, data: Buffer) -> asyncio.Future[None]:
        """Write whole blocks; `flush` makes them durable. `data` has to stay as it is until then. Raises as `read`,
        and ReadOnlyDisk."""
        self._check_open()
        view = memoryview(data).cast("B")
        self.disk.check_write(sector, view.nbytes)
        if view.nbytes > self.disk.max_transfer():
            return self._task(self._write_split(sector, view))
        return self._start(lambda: self.disk.submit_write(sector, view), _nothing)

    async def flush(self) -> None:
        """Returns when all writes that completed before are durable."""
        self._check_open()
        try:
            await self._start(self.disk.submit_flush, _nothing)
        except Unsupported:
            return  # A disk that cannot be asked has no cache (VIRTIO 1.4, 5.2.5.1).

    async def discard(self, offset: int, length: int) -> None:
        """Give up bytes, whole blocks; what they read as afterwards is undefined. Raises as `BlkRanges.discard`."""
        await self._one_by_one(self._ranges().discard_requests([(offset, length)]))

    async def write_zeroes(self, offset: int, length: int, *, unmap: bool = False) -> None:
        """Make bytes zeros, whole blocks; with `unmap` the device may deallocate them. Raises as
        `BlkRanges.write_zeroes`."""
        await self._one_by_one(self._ranges().write_zeroes_requests([(offset, length)], unmap=unmap))

    def _ranges(self) -> BlkRanges:
        self._check_open()
        if not isinstance(self.disk, BlkRanges):
            raise Unsupported(f"a {self.disk.device_name()} disk has no requests for ranges")
        return self.disk

    async def _one_by_one(self, requests: Iterator[Callable[[], int]]) -> None:
        for submit in requests:
            self._check_open()
            await self._start(submit, _nothing)

    async def device_id(self) -> str:
        """The device's serial. Raises Unsupported when it has none."""
        self._check_open()
        return await asyncio.to_thread(self.disk.device_id)

    # --- The end ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Fail what is outstanding with DeviceClosed, and close the driver; what was sent may have been done.
        Idempotent."""
        if self._closed:
            return
        self._stop()
        closed = DeviceClosed("the disk was closed", remedy="open it again")
        for queue in self.queues:
            queue.stop(closed)
        # Also when this task is cancelled: the driver gives its device back, and that takes a moment.
        await asyncio.shield(self._loop.run_in_executor(None, self.disk.close))
        self._fail_all(closed)
        for queue in self.queues:
            queue.fail(closed)

    def _stop(self) -> None:
        self._closed = True
        for queue in self._queues:
            self._loop.remove_reader(queue.fileno())
        if self._config_fd is not None:
            self._loop.remove_reader(self._config_fd)
        for timer in self._timers:
            timer.cancel()

    # --- A turn of the loop -------------------------------------------------------------------------------------------

    def _start(self, submit: Callable[[], int], make: Callable[[bytes], Any] = bytes) -> asyncio.Future[Any]:
        request = _Request(submit, make, self._loop.create_future())
        self.watch()
        self._waiting.append(request)
        self._come_back()
        return request.future

    def _come_back(self) -> None:
        """There is something to do in the next turn."""
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _interrupted(self) -> None:
        self._disarm()
        self._turn()
        for queue in self.queues:
            queue.interrupted()

    def lets_send(self, index: int) -> bool:
        """Whether a queue of `queues` may send now: the disk's own requests share the first one, and go first."""
        return index > 0 or (not self._sent and not self._waiting)

    def _turn(self) -> None:
        """Send what was asked for since the last one, tell what has completed, and see to the next."""
        self._turn_due = False
        if self._closed:
            return
        try:
            self._send()
            found = self._reap()
            if found:
                self._send()
        except Exception as error:
            # Nothing that a device does, so nobody knows what it means: but nobody may wait for ever.
            self._fail_all(error)
            raise
        self._empty_looks = 0 if found else self._empty_looks + 1
        if self._sent:
            self._wait()
        elif self._waiting:
            self._later(_NAP_SECONDS, self._come_back)

    def _send(self) -> None:
        waiting = self._waiting
        if waiting and not self._sent and self.queues and self.queues[0].in_flight:
            return
        while waiting:
            request = waiting[0]
            if not request.future.done():
                try:
                    self._sent[request.submit()] = request
                except QueueFull:
                    return
                except Exception as error:
                    request.fail(error)
            waiting.popleft()

    def _reap(self) -> int:
        try:
            tokens = self.disk.poll()
        except HwloopError:
            # Everything in flight has failed with it, and is told of in its own place.
            tokens = list(self._sent)
        found = 0
        for token in tokens:
            request = self._sent.pop(token, None)
            if request is not None:
                found += 1
                self._finish(token, request)
        return found

    def _finish(self, token: int, request: _Request) -> None:
        if request.future.done():
            self.disk.abandon(token)
            return
        try:
            request.future.set_result(request.make(self.disk.complete(token)))
        except Exception as error:
            request.fail(error)

    def _fail_all(self, error: Exception) -> None:
        for token in self._sent:
            self.disk.abandon(token)
        for request in [*self._sent.values(), *self._waiting]:
            request.fail(error)
        self._sent.clear()
        self._waiting.clear()

    def _wait(self) -> None:
        """The device has requests: sleep on its interrupt, or look again, at once or a little later."""
        if self._queues:
            if not self._arm():
                self._disarm()
                self._come_back()
        elif self._empty_looks < _EAGER_LOOKS:
            self._come_back()
        else:
            self._later(_NAP_SECONDS, self._come_back)

    def _arm(self) -> bool:
        """Whether nothing has completed meanwhile, so that there is something to sleep for."""
        self._armed = True
        return not sum(queue.waiter.arm() for queue in self._queues)

    def _disarm(self) -> None:
        if self._armed:
            self._armed = False
            for queue in self._queues:
                queue.waiter.disarm()

    # --- A device that takes its time ---------------------------------------------------------------------------------

    def watch(self) -> None:
        """From now on, look after the device from time to time as long as requests are outstanding."""
        if not self._watching:
            self._watching = True
            self._later(_WATCH_SECONDS, self._look_after)

    def _look_after(self) -> None:
        """As long as requests are outstanding: an interrupt may have been lost, and a device may be."""
        self._watching = False
        busy = [queue for queue in self.queues if queue.outstanding]
        if self._closed or not (self.outstanding or busy):
            return
        self.watch()
        for queue in busy:
            queue.look_after()
        self._disarm()
        self._turn()
        oldest = next(iter(self._sent), None)
        if oldest is None:
            return
        if oldest != self._oldest:
            self._oldest, self._patience = oldest, self.disk.new_patience()
        try:
            self.disk.look_after(self._patience)
        except HwloopError:
            # It was given up: all its requests have failed, and say why.
            self._come_back()

    def _look_for_events(self) -> None:
        if isinstance(self.disk, Device):
            try:
                self.disk.check_events()
            except HwloopError:
                self._come_back()

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._timers = [timer for timer in self._timers if timer.when() > self._loop.time() and not timer.cancelled()]
        self._timers.append(self._loop.call_later(seconds, callback))

    # --- Long transfers -----------------------------------------------------------------------------------------------

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        return self._loop.create_task(work)

    async def _read_split(self, sector: int, length: int) -> bytes:
        data = bytearray(length)
        await self._fill(sector, memoryview(data))
        return bytes(data)

    async def _fill(self, sector: int, view: memoryview) -> None:
        step = self.disk.max_transfer()
        await _all_of(
            [
                self.read_into(sector + offset // SECTOR_SIZE, view[offset : offset + step])
                for offset in range(0, view.nbytes, step)
            ]
        )

    async def _write_split(self, sector: int, view: memoryview) -> None:
        step = self.disk.max_transfer()
        await _all_of(
            [
                self.write(sector + offset // SECTOR_SIZE, view[offset : offset + step])
                for offset in range(0, view.nbytes, step)
            ]
        )

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceClosed("the disk is closed", remedy="open it again")


class _Request:
    """One request: how it is put into the queue, what becomes of its bytes, and who waits for that."""

    __slots__ = ("future", "make", "submit")

    def __init__(self, submit: Callable[[], int], make: Callable[[bytes], Any], future: asyncio.Future[Any]) -> None:
        self.submit = submit
        self.make = make
        self.future = future

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class aopen:  # noqa: N801 (used like a function)
    """As `hwloop.open`, for `async with` or `await`: a block device as an `AsyncDisk`.

    Opening and closing take the time that a device needs, in a thread, so that the loop goes on. Raises as
    `hwloop.open`; Unsupported for what is no disk.
    """

    def __init__(self, target: str | Target) -> None:
        self._target = target
        self._disk: AsyncDisk | None = None

    def __await__(self) -> Any:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncDisk:
        self._disk = await self._open()
        return self._disk

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._disk is not None:
            await self._disk.close()

    async def _open(self) -> AsyncDisk:
        opening = asyncio.get_running_loop().run_in_executor(None, session.open, self._target)
        try:
            driver = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # It cannot be stopped half way; when it is open, it is closed again.
            opening.add_done_callback(_close_opened)
            raise
        if not isinstance(driver, BlockDevice):
            await asyncio.to_thread(driver.close)
            raise Unsupported(f"{driver.device_name()} is no disk", remedy="use hwloop.open")
        return AsyncDisk(driver)


def _close_opened(opening: asyncio.Future[Any]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _selectable(disk: BlockDevice) -> list[Any]:
    """The virtqueues of a disk whose interrupts the loop can sleep on: all of them, or none."""
    queues = getattr(disk, "virtqueues", getattr(disk, "queues", [])) if isinstance(disk, Device) else []
    return list(queues) if queues and all(queue.fileno() is not None for queue in queues) else []


def _fast_queues(disk: BlockDevice) -> list[tuple[BlkQueue, VirtQueue]]:
    return list(zip(disk.queues, disk.virtqueues, strict=True)) if isinstance(disk, VirtioBlk) else []


def _config_fd(disk: BlockDevice) -> int | None:
    line = disk.lines.config if isinstance(disk, Device) else None
    return line.fileno() if line is not None else None


async def _all_of(pieces: list[asyncio.Future[None]]) -> None:
    """Until all are done; when one fails or the wait is cancelled, nobody waits for the others."""
    try:
        await asyncio.gather(*pieces)
    except BaseException:
        for piece in pieces:
            piece.cancel()
        raise


def _copy(data: bytes, view: memoryview) -> None:
    view[:] = data


def _nothing(data: bytes) -> None:
    """Of a request that reads nothing."""
