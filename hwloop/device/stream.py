"""Long transfers of any alignment: a few large requests in flight, constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from hwloop.device.block import BlockDevice
from hwloop.device.writer import IN_FLIGHT, BlockWriter, check_range
from hwloop.errors import QueueFull
from hwloop.spec import SECTOR_SIZE

__all__ = ["check_range", "read_range", "write_range"]

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
    room = pieces[: IN_FLIGHT - len(tokens)]
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
    """Write a stream of bytes from `offset` on; yields how many bytes of it are done, whenever there are more.

    The first and the last block are read, changed and written back where the stream does not cover them. What does not
    fit on the disk is not written: what came before is, and then InvalidParam is raised.
    """
    check_range(disk, offset, 0)
    with BlockWriter(disk) as writer:
        reported = 0
        for chunk in chunks:
            writer.write(offset, _fitting(disk, writer, offset, chunk))
            offset += len(chunk)
            if writer.done > reported:
                yield (reported := writer.done)
        writer.finish()
        if writer.done > reported:
            yield writer.done


def _fitting(disk: BlockDevice, writer: BlockWriter, offset: int, chunk: bytes) -> bytes:
    """The chunk, if it fits; else what fits of it is written before the error."""
    room = disk.size() - offset
    if len(chunk) > room:
        writer.write(offset, chunk[:room])
        writer.finish()
        check_range(disk, offset, len(chunk))
    return chunk
