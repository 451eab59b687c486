"""Writes to any place of a disk, in any pieces: put together into large requests, a few of them in flight."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hwloop.device.blk_formats import ZonedModel
from hwloop.device.block import BlockDevice
from hwloop.device.slots import IN_FLIGHT, Slots
from hwloop.errors import HwloopError, InvalidParam
from hwloop.spec import SECTOR_SIZE

if TYPE_CHECKING:
    from typing_extensions import Buffer


def check_range(disk: BlockDevice, offset: int, length: int) -> None:
    """Raises InvalidParam for a range of bytes that is not on the disk."""
    if offset < 0 or length < 0 or offset + length > disk.size():
        raise InvalidParam(
            f"{length} bytes at {offset} are not on the disk, which has {disk.size()} bytes",
            remedy=f"at offset {offset} there are {max(0, disk.size() - offset)}",
        )


class BlockWriter:
    """Writes bytes at byte offsets, in constant memory. Pieces that follow one another are put together, in the memory
    that the device reads.

    The first and the last block of a run of pieces are read, changed and written back where the run does not cover
    them. `done` counts the bytes of the caller's whose write has completed. `finish` at the end writes what is left;
    leaving the `with` block waits for what is in flight, whatever happened. Errors are those of `BlockDevice.write`.
    """

    def __init__(self, disk: BlockDevice) -> None:
        self._disk = disk
        # A device may take requests in any order, and a zone only at its write pointer.
        zones = disk.limits.zones
        in_flight = 1 if zones is not None and zones.model is ZonedModel.HOST_MANAGED else IN_FLIGHT
        self._slots = Slots(disk, in_flight, disk.max_transfer())
        self._counts: deque[int] = deque()
        # What is put together: where it begins, what of it is filled, and how much of that is not the caller's.
        self._memory: memoryview | None = None
        self._position = self._filled = self._head = 0
        self.done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    def write(self, offset: int, data: Buffer) -> None:
        """Take the bytes; they are on their way now, or when more has come. Raises InvalidParam before anything of a
        piece that is not on the disk is written."""
        with memoryview(data) as view:
            check_range(self._disk, offset, view.nbytes)
            done = 0
            while done < view.nbytes:
                with self.space(offset + done) as space:
                    count = min(len(space), view.nbytes - done)
                    space[:count] = view[done : done + count]
                self.take(count)
                done += count

    def space(self, offset: int) -> memoryview:
        """Memory for the bytes from `offset` on, which is on the disk: one at least. Say to `take` how many were put
        into it, and release it."""
        if offset != self._position + self._filled or not self._memory:
            self._begin(offset)
        assert self._memory is not None
        return self._memory[self._filled :]

    def take(self, count: int) -> None:
        """So many bytes were put into `space`."""
        assert self._memory is not None, "there was space"
        self._filled += count
        if self._filled == len(self._memory):
            self._send()

    def flush(self) -> None:
        """Send what has been put together, however little it is."""
        if self._memory is None:
            return
        if self._filled == self._head:
            self._forget()
            return
        tail = self._filled % self._disk.block_size()
        if tail:
            start = self._filled - tail
            rest = self._block_at(self._position + start)[tail:]
            self._memory[self._filled : self._filled + len(rest)] = rest
            self._filled += len(rest)
            self._send(extra=len(rest))
        else:
            self._send()

    def finish(self) -> None:
        """Send the rest and wait for the end of all writes. It does not flush the disk's cache."""
        self.flush()
        while self._counts:
            self._finish_one()

    def settle(self) -> None:
        """Before an error is passed on: what was sent has been written, or has failed, and is not on its way. What was
        not sent is forgotten."""
        self._forget()
        self._counts.clear()
        self._slots.settle()
        self._slots.close()

    # --- Private ------------------------------------------------------------------------------------------------------

    def _begin(self, offset: int) -> None:
        """Go on there: in the next slot, or with a run of pieces somewhere else."""
        self.flush()
        head = offset % self._disk.block_size()
        start = offset - head
        before = self._block_at(start)[:head] if head else b""
        while self._slots.in_flight >= self._slots.depth:
            self._finish_one()
        self._memory = self._slots.take(self._disk.end_of_piece(start, self._disk.size()) - start)
        self._memory[:head] = before
        self._position, self._filled, self._head = start, head, head

    def _forget(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.release()
        self._filled = self._head = 0

    def _block_at(self, position: int) -> bytes:
        # A write of ours may be on its way to that very block.
        while self._counts:
            self._finish_one()
        return self._disk.read(position // SECTOR_SIZE, self._disk.block_size())

    def _send(self, extra: int = 0) -> None:
        """Start the write of what is filled, of which `extra` bytes at the end are not the caller's."""
        assert self._memory is not None, "something is filled"
        position, view, count = self._position, self._memory[: self._filled], self._filled - self._head - extra
        self._position += self._filled
        self._forget()
        while not self._slots.start(position, view, write=True):
            if not self._counts:
                # Others fill the queue: a call of its own waits for a place.
                with view:
                    self._disk.write(position // SECTOR_SIZE, view)
                self.done += count
                return
            try:
                self._finish_one()
            except BaseException:
                view.release()
                raise
        self._counts.append(count)

    def _finish_one(self) -> None:
        try:
            self._slots.finish().release()
        except HwloopError:
            self._counts.popleft()
            raise
        self.done += self._counts.popleft()
