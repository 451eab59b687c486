"""Long transfers of any alignment: a few large requests in flight, constant memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator

from hwloop.device.block import BlockDevice
from hwloop.device.slots import IN_FLIGHT, Slots
from hwloop.device.writer import BlockWriter, check_range
from hwloop.spec import SECTOR_SIZE

__all__ = ["check_range", "read_range", "read_views", "write_range", "write_stream"]

# --- Reading ----------------------------------------------------------------------------------------------------------


def read_range(disk: BlockDevice, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a range, in pieces, in order. A range that is not whole blocks is read as such and cut."""
    for view in read_views(disk, offset, length):
        data = bytes(view)
        view.release()
        yield data


def read_views(disk: BlockDevice, offset: int, length: int) -> Generator[memoryview, None, None]:
    """As `read_range`, without a copy: each piece is the memory that the device has written, until the next one is
    asked for. Close this (`contextlib.closing`) before the disk, and keep no view of a piece."""
    check_range(disk, offset, length)
    if not length:
        return
    block = disk.block_size()
    start, end = offset // block * block, -(-(offset + length) // block) * block
    position = start
    with Slots(disk, IN_FLIGHT, min(disk.max_transfer(), end - start)) as slots:
        for view in _read_blocks(disk, start, end, slots):
            low, high = max(offset - position, 0), min(offset + length - position, len(view))
            position += len(view)
            with view, view[low:high] as piece:
                yield piece


def _read_blocks(disk: BlockDevice, position: int, end: int, slots: Slots) -> Iterator[memoryview]:
    while position < end or slots.in_flight:
        position = _start_reads(disk, position, end, slots)
        if slots.in_flight:
            yield slots.finish()
            continue
        # Others fill the queue: a call of its own waits for a place.
        stop = disk.end_of_piece(position, end)
        view = slots.take(stop - position)
        disk.read_into(position // SECTOR_SIZE, view)
        yield view
        position = stop


def _start_reads(disk: BlockDevice, position: int, end: int, slots: Slots) -> int:
    """Start the next reads, and return where those that were not started begin."""
    while position < end and slots.in_flight < slots.depth:
        stop = disk.end_of_piece(position, end)
        view = slots.take(stop - position)
        if not slots.start(position, view, write=False):
            view.release()
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


def write_stream(disk: BlockDevice, offset: int, fill: Callable[[memoryview], int]) -> Iterator[int]:
    """As `write_range`, without a copy: `fill` puts the next bytes into the memory that it is given, and says how many
    there are; 0 is the end."""
    check_range(disk, offset, 0)
    with BlockWriter(disk) as writer:
        reported = 0
        while offset < disk.size():
            with writer.space(offset) as space:
                count = fill(space)
            if not count:
                break
            writer.take(count)
            offset += count
            if writer.done > reported:
                yield (reported := writer.done)
        writer.finish()
        if writer.done > reported:
            yield writer.done
        if offset >= disk.size() and (more := fill(memoryview(bytearray(1)))):
            check_range(disk, offset, more)


def _fitting(disk: BlockDevice, writer: BlockWriter, offset: int, chunk: bytes) -> bytes:
    """The chunk, if it fits; else what fits of it is written before the error."""
    room = disk.size() - offset
    if len(chunk) > room:
        writer.write(offset, chunk[:room])
        writer.finish()
        check_range(disk, offset, len(chunk))
    return chunk
