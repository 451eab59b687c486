"""Long transfers of any alignment: a few large requests in flight, constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain

from hwloop.device.block import BlockDevice
from hwloop.errors import HwloopError, InvalidParam, QueueFull
from hwloop.spec import SECTOR_SIZE

_IN_FLIGHT = 4


def check_range(disk: BlockDevice, offset: int, length: int) -> None:
    """Raises InvalidParam for a range of bytes that is not on the disk."""
    if offset < 0 or length < 0 or offset + length > disk.size():
        raise InvalidParam(
            f"{length} bytes at {offset} are not on the disk, which has {disk.size()} bytes",
            remedy=f"at offset {offset} there are {max(0, disk.size() - offset)}",
        )


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_range(disk: BlockDevice, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a range, in pieces, in order. A range that is not whole blocks is read as such and cut."""
    check_range(disk, offset, length)
    block = disk.block_size()
    start, end = offset // block * block, -(-(offset + length) // block) * block
    position = start
    for chunk in _read_blocks(disk, start, end if length else start):
        low, high = max(offset - position, 0), min(offset + length - position, len(chunk))
        position += len(chunk)
        yield chunk if (low, high) == (0, len(chunk)) else chunk[low:high]


def _read_blocks(disk: BlockDevice, start: int, end: int) -> Iterator[bytes]:
    tokens: deque[int] = deque()
    pieces = range(start, end, disk.max_transfer())
    try:
        while pieces or tokens:
            pieces = pieces[_submit_reads(disk, pieces, end, tokens) :]
            if not tokens:
                # Others fill the queue: a call of its own waits for a place.
                yield disk.read(pieces[0] // SECTOR_SIZE, _length(disk, pieces[0], end))
                pieces = pieces[1:]
                continue
            yield disk.wait(tokens[0])
            tokens.popleft()
    finally:
        for token in tokens:
            disk.abandon(token)


def _submit_reads(disk: BlockDevice, pieces: range, end: int, tokens: deque[int]) -> int:
    """Start the next reads, and return how many of the pieces that was."""
    room = pieces[: _IN_FLIGHT - len(tokens)]
    for started, position in enumerate(room):
        try:
            tokens.append(disk.submit_read(position // SECTOR_SIZE, _length(disk, position, end)))
        except QueueFull:
            return started
    return len(room)


def _length(disk: BlockDevice, position: int, end: int) -> int:
    return min(disk.max_transfer(), end - position)


# --- Writing ----------------------------------------------------------------------------------------------------------


def write_range(disk: BlockDevice, offset: int, chunks: Iterable[bytes]) -> Iterator[int]:
    """Write a stream of bytes from `offset` on; yields how many bytes of it are done, after each piece.

    The first and the last block are read, changed and written back where the stream does not cover them. Raises
    InvalidParam before the first byte that would not fit on the disk; what was written before stays.
    """
    check_range(disk, offset, 0)
    writer = _Writer(disk)
    try:
        for position, piece, count in _whole_pieces(disk, offset, chunks):
            yield from writer.write(position, piece, count)
        yield from writer.finish()
    finally:
        writer.settle()


class _Writer:
    """A few writes in flight; `done` counts the bytes of the stream whose write has completed."""

    def __init__(self, disk: BlockDevice) -> None:
        self._disk = disk
        self._tokens: deque[tuple[int, int]] = deque()
        self.done = 0

    def write(self, position: int, piece: bytes, count: int) -> Iterator[int]:
        while len(self._tokens) >= _IN_FLIGHT or not self._submit(position, piece, count):
            if not self._tokens:
                # Others fill the queue: a call of its own waits for a place.
                self._disk.write(position // SECTOR_SIZE, piece)
                self.done += count
                yield self.done
                return
            yield self._finish_one()

    def finish(self) -> Iterator[int]:
        while self._tokens:
            yield self._finish_one()

    def settle(self) -> None:
        """Before an error is passed on: what was sent has been written, or has failed, and is not on its way."""
        while self._tokens:
            with suppress(HwloopError):
                self._finish_one()

    def _submit(self, position: int, piece: bytes, count: int) -> bool:
        try:
            self._tokens.append((self._disk.submit_write(position // SECTOR_SIZE, piece), count))
        except QueueFull:
            return False
        return True

    def _finish_one(self) -> int:
        token, count = self._tokens.popleft()
        self._disk.wait(token)
        self.done += count
        return self.done


def _whole_pieces(disk: BlockDevice, offset: int, chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes, int]]:
    """(position, bytes, how many of them are the stream's) of pieces that are whole blocks of at most
    `max_transfer()` bytes."""
    stream = (chunk for chunk in chunks if chunk)
    first = next(stream, None)
    if first is None:
        return
    step, head = disk.max_transfer(), offset % disk.block_size()
    position = offset - head
    buffer = bytearray(_block_at(disk, position)[:head]) if head else bytearray()
    for chunk in chain([first], stream):
        buffer += chunk
        check_range(disk, position, len(buffer))
        while len(buffer) >= step:
            yield position, bytes(buffer[:step]), step - head
            del buffer[:step]
            position, head = position + step, 0
    if buffer:
        count, tail = len(buffer) - head, len(buffer) % disk.block_size()
        if tail:
            buffer += _block_at(disk, position + len(buffer) - tail)[tail:]
        yield position, bytes(buffer), count


def _block_at(disk: BlockDevice, position: int) -> bytes:
    return disk.read(position // SECTOR_SIZE, disk.block_size())
