"""The requests of a long transfer: a few of them in flight, each with memory that is used again and again."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hwloop.device.block import BlockDevice
from hwloop.errors import HwloopError, NotReady, QueueFull
from hwloop.spec import SECTOR_SIZE

if TYPE_CHECKING:
    from typing_extensions import Buffer

IN_FLIGHT = 4
"""Requests of a long transfer that the device has at once, at most."""
_AT_FIRST = 2
_WAITS = 2


class Slots:
    """Slots of `size` bytes for requests, which are waited for in the order in which they were started.

    At most `depth` are in flight: two, and up to `count` once it shows that the device is what is waited for. Fewer are
    better while it is not: the memory is in the caches then. It is what the device reaches where the driver has that
    (`transfer_memory`), so that nothing is copied; that of a slot is allocated when it is used first. Leaving the
    `with` block abandons what is in flight.
    """

    def __init__(self, disk: BlockDevice, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.depth = min(_AT_FIRST, count)
        self._disk = disk
        self._waits = 0
        self._started: deque[tuple[int, int, memoryview]] = deque()
        # The one that was used last comes first.
        self._free = list(reversed(range(count)))
        self._resources = ExitStack()
        # No views, which would keep the disk from taking it back.
        self._memory: list[Buffer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._started:
            token, _, view = self._started.popleft()
            self._disk.abandon(token)
            view.release()
        self.close()

    @property
    def in_flight(self) -> int:
        """Requests that were started and not waited for."""
        return len(self._started)

    def take(self, length: int) -> memoryview:
        """The first `length` bytes of a slot that no request has; the caller releases them, or starts a request with
        them. Until then it is the same slot."""
        assert self._free, "there is no slot without a request"
        slot = self._free[-1]
        if slot == len(self._memory):
            self._memory.append(self._resources.enter_context(self._disk.transfer_memory(self.size)))
        return memoryview(self._memory[slot])[:length]

    def start(self, position: int, view: memoryview, *, write: bool) -> bool:
        """Start the request for the bytes from `position` on, with the view that `take` gave; False when the queue is
        full. The view is released if it raises."""
        submit = self._disk.submit_write if write else self._disk.submit_read_into
        try:
            token = submit(position // SECTOR_SIZE, view)
        except QueueFull:
            return False
        except BaseException as error:
            from traceback import clear_frames

            # The disk could not take its memory back while a traceback keeps views of it.
            clear_frames(error.__traceback__)
            view.release()
            raise
        self._started.append((token, self._free.pop(), view))
        return True

    def finish(self) -> memoryview:
        """Wait for the oldest request and return its memory, which the caller releases before it takes another slot.
        Raises what the request failed with; another exception leaves it as it is."""
        token, slot, view = self._started[0]
        try:
            self._wait(token)
        except HwloopError:
            view.release()
            self._end(slot)
            raise
        self._end(slot)
        return view

    def _end(self, slot: int) -> None:
        self._started.popleft()
        self._free.append(slot)

    def _wait(self, token: int) -> None:
        try:
            self._disk.complete(token)
            self._waits = 0
        except NotReady:
            self._waits += 1
            if self._waits >= _WAITS:
                self.depth = min(self.depth + 1, self.count)
            self._disk.wait(token)

    def settle(self) -> None:
        """Before an error is passed on: what was started has ended, however it did, and is not on its way."""
        while self._started:
            with suppress(HwloopError):
                self.finish().release()

    def close(self) -> None:
        """Give the memory back. Idempotent; it is allocated again by who goes on."""
        self._free = list(reversed(range(self.count)))
        self._memory.clear()
        self._resources.close()
