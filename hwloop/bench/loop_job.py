"""A thread of a measurement that has a queue to itself: the loop without the interpreter, in slices."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from cython_ring import DmaBuffer
from hwloop.bench.cost import OF_LOOKING, Costs
from hwloop.bench.job import Outcome, Window
from hwloop.bench.loop import Loop
from hwloop.bench.samples import Part
from hwloop.bench.workload import Workload
from hwloop.device.blk import VirtioBlk
from hwloop.device.watched import status_fault
from hwloop.errors import DeviceLost
from hwloop.queue import VirtQueue
from hwloop.spec import SECTOR_SIZE

_SLICE = 50_000_000
"""Nanoseconds after which a loop looks whether it is to stop."""
_WAIT_SECONDS = 0.02
_POLL_LOOKS = 1 << 12
_MOST_AT_ONCE = 16
_POOL_BYTES = 1 << 20


def why_not(disk: object, workload: Workload) -> str:
    """Why a disk cannot be measured by loops of its queues, or "" when it can."""
    if not isinstance(disk, VirtioBlk) or not disk.queues:
        return "the device has no virtqueues"
    if not all(isinstance(queue, VirtQueue) for queue in disk.virtqueues):
        return "a filter looks at each of them"
    queue = disk.queues[0]
    if queue.size_max and workload.block_bytes > queue.size_max // queue.block_size * queue.block_size:
        return f"{workload.block_bytes} bytes are more than one segment of the device ({queue.size_max})"
    return ""


class LoopJob:
    """`depth` requests of a workload, which fits the disk, in flight on queue `number`. Each `run` begins anew with the
    order of them, which `phase` chooses too."""

    def __init__(self, disk: VirtioBlk, workload: Workload, number: int) -> None:
        self._disk, self._workload, self._number = disk, workload, number
        self._queue = disk.queues[number]
        self._depth = min(workload.depth, self._queue.size)
        self._buffer = disk.alloc(self._depth * workload.block_bytes)
        if workload.writes:
            _fill(self._buffer, random.Random(f"{workload.seed}/{number}/data"))

    def run(self, phase: str, window: Window, part: Part) -> Outcome:
        """Raises what a request failed with, DeviceLost, DeadlineExpired."""
        try:
            return self._run(phase, window, part)
        except DeviceLost:
            # Another thread may have given the disk up, and said why. The queue does not know that, and a status that
            # says that the device was reset is our own doing then.
            self._disk.check_working()
            raise

    def _run(self, phase: str, window: Window, part: Part) -> Outcome:
        before = Costs.of_thread()
        loop = self._loop(phase)
        now = self._keep_busy(loop, window, part)
        in_window = loop.completed
        loop.drain(*part.latencies)
        if loop.submitted >= window.requests:
            # Nothing was cut off: the last ones belong to it as the first ones do.
            now, in_window = time.monotonic_ns(), loop.submitted
        part.end(now)
        used = Costs.of_thread() - before - OF_LOOKING
        return Outcome(loop.submitted, in_window, now - window.start, loop.most_in_flight, 0, used)

    def _keep_busy(self, loop: Loop, window: Window, part: Part) -> int:
        """Returns when it ended."""
        while (now := time.monotonic_ns()) < window.end and not window.stop.is_set():
            part.advance(now)
            if loop.completed >= window.requests:
                break
            loop.run(min(window.end, part.until, now + _SLICE), window.requests, *part.latencies)
        part.advance(now)
        return now

    def _loop(self, phase: str) -> Loop:
        workload = self._workload
        assert workload.size is not None, "it was fitted to a disk"
        places = workload.size // workload.block_bytes
        return Loop(
            self._queue,
            self._buffer,
            block_bytes=workload.block_bytes,
            depth=self._depth,
            places=places,
            first_sector=workload.offset // SECTOR_SIZE,
            at_random=workload.is_random,
            # Jobs that read or write in order begin at shares of their own.
            start=places * self._number // workload.jobs,
            read_percent=workload.percent_of_reads,
            seed=random.Random(f"{workload.seed}/{self._number}/{phase}").getrandbits(63),
            batch=min(_MOST_AT_ONCE, max(1, self._depth // 2)),
            looks=_POLL_LOOKS if workload.wait == "poll" else 1,
            wait=_waiter(self._disk, self._disk.virtqueues[self._number]),
        )


def _waiter(disk: VirtioBlk, queue: VirtQueue) -> Callable[[float], None]:
    def wait(seconds: float) -> None:
        """As the queue was told to wait; a device that is slow is looked at."""
        if queue.wait(min(seconds, _WAIT_SECONDS)) or seconds < _WAIT_SECONDS:
            return
        if fault := status_fault(disk.transport.get_status()):
            raise DeviceLost(fault, remedy="open it again")

    return wait


def _fill(buffer: DmaBuffer, source: random.Random) -> None:
    """With random bytes: what is all alike is less work for some devices."""
    pool = source.randbytes(min(_POOL_BYTES, len(buffer)))
    with memoryview(buffer) as view:
        for at in range(0, len(view), len(pool)):
            piece = pool[: len(view) - at]
            view[at : at + len(piece)] = piece
