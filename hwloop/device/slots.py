"""The requests of a long transfer: a few of them in flight, each with memory that is used again and again."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hwloop.device.block import BlockDevice
from hwloop.errors import HwloopError, QueueFull
from hwloop.spec import SECTOR_SIZE

if TYPE_CHECKING:
    from typing_extensions import Buffer

IN_FLIGHT = 4
"""Requests of a long transfer that the device has at once."""


class Slots:
    """`count` slots of `size` bytes, which requests take in turns: they are started, and waited for, in one order.

    The memory is what the device reaches where the driver has that (`transfer_memory`), so that nothing is copied; that
    of a slot is allocated when it is used first. At most `count` requests are in flight. Leaving the `with` block
    abandons them.
    """

    def __init__(self, disk: BlockDevice, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._disk = disk
        self._next = 0
        self._started: deque[tuple[int, memoryview]] = deque()
        self._resources = ExitStack()
        # No views, which would keep the disk from taking it back.
        self._memory: list[Buffer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._started:
            token, view = self._started.popleft()
            self._disk.abandon(token)
            view.release()
        self.close()

    @property
    def in_flight(self) -> int:
        """Requests that were started and not waited for."""
        return len(self._started)

    def take(self, length: int) -> memoryview:
        """The first `length` bytes of the slot whose turn it is, which no request has; the caller releases them, or
        starts a request with them."""
        assert len(self._started) < self.count, "there is no slot without a request"
        if self._next == len(self._memory):
            self._memory.append(self._resources.enter_context(self._disk.transfer_memory(self.size)))
        return memoryview(self._memory[self._next])[:length]

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
        self._started.append((token, view))
        self._next = (self._next + 1) % self.count
        return True

    def finish(self) -> memoryview:
        """Wait for the oldest request and return its memory, which the caller releases. Raises what it failed with."""
        token, view = self._started.popleft()
        try:
            self._disk.wait(token)
        except BaseException:
            view.release()
            raise
        return view

    def settle(self) -> None:
        """Before an error is passed on: what was started has ended, however it did, and is not on its way."""
        while self._started:
            with suppress(HwloopError):
                self.finish().release()

    def close(self) -> None:
        """Give the memory back. Idempotent; it is allocated again by who goes on."""
        self._next = 0
        self._memory.clear()
        self._resources.close()
