"""Writes to any place of a disk, in any pieces: put together into large requests, a few of them in flight."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self

from hwloop.device.blk_formats import ZonedModel
from hwloop.device.block import BlockDevice
from hwloop.errors import HwloopError, InvalidParam, QueueFull
from hwloop.spec import SECTOR_SIZE

IN_FLIGHT = 4
"""Requests of a long transfer that the device has at once."""


def check_range(disk: BlockDevice, offset: int, length: int) -> None:
    """Raises InvalidParam for a range of bytes that is not on the disk."""
    if offset < 0 or length < 0 or offset + length > disk.size():
        raise InvalidParam(
            f"{length} bytes at {offset} are not on the disk, which has {disk.size()} bytes",
            remedy=f"at offset {offset} there are {max(0, disk.size() - offset)}",
        )


class BlockWriter:
    """Writes bytes at byte offsets, in constant memory. Pieces that follow one another are put together.

    The first and the last block of a run of pieces are read, changed and written back where the run does not cover
    them. `done` counts the bytes of the caller's whose write has completed. `finish` at the end writes what is left;
    leaving the `with` block waits for what is in flight, whatever happened. Errors are those of `BlockDevice.write`.
    """

    def __init__(self, disk: BlockDevice) -> None:
        self._disk = disk
        self._buffer = bytearray()
        self._position = 0
        self._head = 0
        self._tokens: deque[tuple[int, int]] = deque()
        # A device may take requests in any order, and a zone only at its write pointer.
        zones = disk.limits.zones
        self._in_flight = 1 if zones is not None and zones.model is ZonedModel.HOST_MANAGED else IN_FLIGHT
        self.done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    def write(self, offset: int, data: bytes) -> None:
        """Take the bytes; they are on their way now, or when more has come. Raises InvalidParam before anything of a
        piece that is not on the disk is written."""
        if not data:
            return
        check_range(self._disk, offset, len(data))
        if not self._buffer or offset != self._position + len(self._buffer):
            self._begin(offset)
        self._buffer += data
        while self._buffer and len(self._buffer) >= (step := self._step()):
            self._send(step)

    def _step(self) -> int:
        """How many bytes the next request carries, if there are so many."""
        return self._disk.end_of_piece(self._position, self._disk.size()) - self._position

    def flush(self) -> None:
        """Send what has been put together, however little it is."""
        if not self._buffer:
            return
        tail = len(self._buffer) % self._disk.block_size()
        if tail:
            end = self._position + len(self._buffer) - tail
            self._send(len(self._buffer) - tail)
            self._buffer += self._block_at(end)[tail:]
            self._send(len(self._buffer), extra=len(self._buffer) - tail)
        else:
            self._send(len(self._buffer))

    def finish(self) -> None:
        """Send the rest and wait for the end of all writes. It does not flush the disk's cache."""
        self.flush()
        while self._tokens:
            self._finish_one()

    def settle(self) -> None:
        """Before an error is passed on: what was sent has been written, or has failed, and is not on its way."""
        self._buffer.clear()
        while self._tokens:
            with suppress(HwloopError):
                self._finish_one()

    # --- Private ------------------------------------------------------------------------------------------------------

    def _begin(self, offset: int) -> None:
        """Start a run of pieces somewhere else."""
        self.flush()
        self._head = offset % self._disk.block_size()
        self._position = offset - self._head
        self._buffer += self._block_at(self._position)[: self._head] if self._head else b""

    def _block_at(self, position: int) -> bytes:
        # A write of ours may be on its way to that very block.
        while self._tokens:
            self._finish_one()
        return self._disk.read(position // SECTOR_SIZE, self._disk.block_size())

    def _send(self, length: int, extra: int = 0) -> None:
        """Start the write of the first `length` bytes of the buffer, of which `extra` at the end are not the
        caller's."""
        if not length:
            return
        piece, count = bytes(self._buffer[:length]), length - self._head - extra
        while len(self._tokens) >= self._in_flight or not self._submit(piece, count):
            if not self._tokens:
                # Others fill the queue: a call of its own waits for a place.
                self._disk.write(self._position // SECTOR_SIZE, piece)
                self.done += count
                break
            self._finish_one()
        del self._buffer[:length]
        self._position, self._head = self._position + length, 0

    def _submit(self, piece: bytes, count: int) -> bool:
        try:
            self._tokens.append((self._disk.submit_write(self._position // SECTOR_SIZE, piece), count))
        except QueueFull:
            return False
        return True

    def _finish_one(self) -> None:
        token, count = self._tokens.popleft()
        self._disk.wait(token)
        self.done += count
