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


def _read_blocks(disk: BlockDevice, position: int, end: int) -> Iterator[bytes]:
    tokens: deque[int] = deque()
    try:
        while position < end or tokens:
            position = _submit_reads(disk, position, end, tokens)
            if not tokens:
                # Others fill the queue: a call of its own waits for a place.
                stop = disk.end_of_piece(position, end)
                yield disk.read(position // SECTOR_SIZE, stop - position)
                position = stop
                continue
            yield disk.wait(tokens[0])
            tokens.popleft()
    finally:
        for token in tokens:
            disk.abandon(token)


def _submit_reads(disk: BlockDevice, position: int, end: int, tokens: deque[int]) -> int:
    """Start the next reads, and return where those that were not started begin."""
    while position < end and len(tokens) < IN_FLIGHT:
        stop = disk.end_of_piece(position, end)
        try:
            tokens.append(disk.submit_read(position // SECTOR_SIZE, stop - position))
        except QueueFull:
            break
        position = stop
    return position


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
