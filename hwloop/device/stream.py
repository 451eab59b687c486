"""Long transfers of any alignment: a few large requests in flight, constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from hwloop.device.blk import VirtioBlk
from hwloop.errors import InvalidParam
from hwloop.spec import SECTOR_SIZE

_IN_FLIGHT = 4


def check_range(disk: VirtioBlk, offset: int, length: int) -> None:
    """Raises InvalidParam for a range of bytes that is not on the disk."""
    if offset < 0 or length < 0 or offset + length > disk.size():
        raise InvalidParam(
            f"{length} bytes at {offset} are not on the disk, which has {disk.size()} bytes",
            remedy=f"at offset {offset} there are {max(0, disk.size() - offset)}",
        )


def read_range(disk: VirtioBlk, offset: int, length: int) -> Iterator[bytes]:
    """The bytes of a range, in pieces, in order. A range that is not whole blocks is read as such and cut."""
    check_range(disk, offset, length)
    block = disk.block_size()
    start, end = offset // block * block, -(-(offset + length) // block) * block
    position = start
    for chunk in _read_blocks(disk, start, end):
        low, high = max(offset - position, 0), min(offset + length - position, len(chunk))
        position += len(chunk)
        yield chunk if (low, high) == (0, len(chunk)) else chunk[low:high]


def _read_blocks(disk: VirtioBlk, start: int, end: int) -> Iterator[bytes]:
    step = disk.max_transfer()
    tokens: deque[int] = deque()
    position = start
    while position < end or tokens:
        while position < end and len(tokens) < _IN_FLIGHT and disk.requests_free:
            size = min(step, end - position)
            tokens.append(disk.submit_read(position // SECTOR_SIZE, size))
            position += size
        yield disk.wait(tokens.popleft())


def write_range(disk: VirtioBlk, offset: int, chunks: Iterable[bytes]) -> Iterator[int]:
    """Write a stream of bytes from `offset` on; yields how many bytes are done after each piece.

    The first and the last block are read, changed and written back where the stream does not cover them. Raises
    InvalidParam before the first byte that would not fit on the disk; what was written before stays.
    """
    check_range(disk, offset, 0)
    tokens: deque[tuple[int, int]] = deque()
    done = 0
    for position, piece in _whole_pieces(disk, offset, chunks):
        while len(tokens) >= _IN_FLIGHT or not disk.requests_free:
            done += _finish(disk, tokens)
            yield done
        tokens.append((disk.submit_write(position // SECTOR_SIZE, piece), len(piece)))
    while tokens:
        done += _finish(disk, tokens)
        yield done


def _finish(disk: VirtioBlk, tokens: deque[tuple[int, int]]) -> int:
    token, length = tokens.popleft()
    disk.wait(token)
    return length


def _whole_pieces(disk: VirtioBlk, offset: int, chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(position, bytes) of pieces that are whole blocks, of at most `max_transfer()`."""
    block, step = disk.block_size(), disk.max_transfer()
    position = offset // block * block
    buffer = bytearray(_block_at(disk, position)[: offset - position]) if offset > position else bytearray()
    for chunk in chunks:
        buffer += chunk
        check_range(disk, position, len(buffer))
        while len(buffer) >= step:
            yield position, bytes(buffer[:step])
            del buffer[:step]
            position += step
    if not buffer:
        return
    tail = len(buffer) % block
    if tail:
        buffer += _block_at(disk, position + len(buffer) - tail)[tail:]
    yield position, bytes(buffer)


def _block_at(disk: VirtioBlk, position: int) -> bytes:
    return disk.read(position // SECTOR_SIZE, disk.block_size())
