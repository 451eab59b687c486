"""A disk as NBD sees it: bytes at offsets, for the requests of all connections at once."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING

from hwloop.aio import AsyncDisk
from hwloop.errors import InvalidParam, ReadOnlyDisk, Unsupported
from hwloop.nbd.protocol import ExportFlag
from hwloop.nbd.ranges import AsyncRanges
from hwloop.spec import SECTOR_SIZE

if TYPE_CHECKING:
    from typing_extensions import Buffer

LONGEST_REQUEST = 32 << 20
"""Bytes of a read or a write at most: what clients may send that were told nothing, by the specification."""
_PREFERRED = 4096


class Export:
    """Reads and writes of any alignment: blocks that a write covers in part are read, changed and written back, and
    writes to the same blocks wait for one another, so that none is lost.

    A request ends when all its parts have, also when one fails: nothing of it reaches the disk afterwards. All methods
    raise InvalidParam for what is not on the disk (ENOSPC for changes), ReadOnlyDisk, and what the device fails with.
    """

    def __init__(self, disk: AsyncDisk, *, name: str = "", description: str = "", readonly: bool = False) -> None:
        self.name = name
        self.description = description
        self.readonly = readonly or disk.readonly()
        self._disk = disk
        self._block = disk.block_size()
        self._step = disk.disk.max_transfer()
        self._limits = disk.disk.limits
        self._ranges = AsyncRanges()

    # --- What it is ---------------------------------------------------------------------------------------------------

    def size(self) -> int:
        """Bytes."""
        return self._disk.size()

    def block_sizes(self) -> tuple[int, int, int]:
        """The least, the best and the greatest length of a request. Single bytes are possible, and slow."""
        best = max(_PREFERRED, self._block, self._limits.physical_block_size or 0)
        return 1, min(best, LONGEST_REQUEST), LONGEST_REQUEST

    def flags(self) -> ExportFlag:
        """What can be asked. A flush covers the writes of all connections, so that a client may have several."""
        flags = ExportFlag.HAS_FLAGS | ExportFlag.SEND_FLUSH | ExportFlag.CAN_MULTI_CONN
        if self.readonly:
            return flags | ExportFlag.READ_ONLY
        flags |= ExportFlag.SEND_FUA | ExportFlag.SEND_WRITE_ZEROES | ExportFlag.SEND_FAST_ZERO
        return flags | ExportFlag.SEND_TRIM if self._limits.discard else flags

    # --- Requests -----------------------------------------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> memoryview:
        """The bytes; they may be more in memory than were asked for, by two blocks."""
        self._check(offset, length, errno.EINVAL)
        if not length:
            return memoryview(b"")
        start, end = self._whole_blocks(offset, offset + length)
        data = await self._read_blocks(start, end)
        return memoryview(data)[offset - start : offset - start + length]

    async def write(self, offset: int, data: Buffer) -> None:
        """Write; `flush` makes it durable."""
        view = memoryview(data).cast("B")
        self._check_change(offset, view.nbytes)
        async with self._ranges.hold(*self._whole_blocks(offset, offset + view.nbytes)):
            await self._write_bytes(offset, view)

    async def write_zeroes(self, offset: int, length: int, *, unmap: bool = True, fast: bool = False) -> None:
        """Make bytes zeros, by the device's own request where it has one. With `fast`, raises Unsupported where it
        would have to be written: nothing was done then."""
        self._check_change(offset, length)
        if fast and self._limits.write_zeroes is None:
            raise Unsupported("the device has no request for zeros, so that is not fast")
        start, end = self._inner_blocks(offset, offset + length)
        async with self._ranges.hold(*self._whole_blocks(offset, offset + length)):
            if start >= end:
                await self._write_bytes(offset, memoryview(bytes(length)))
                return
            await self._write_bytes(offset, memoryview(bytes(start - offset)))
            await self._zero_blocks(start, end, unmap)
            await self._write_bytes(end, memoryview(bytes(offset + length - end)))

    async def trim(self, offset: int, length: int) -> None:
        """Give up the whole blocks of the range; what they read as afterwards is undefined. Raises Unsupported."""
        self._check_change(offset, length)
        start, end = self._inner_blocks(offset, offset + length)
        if start < end:
            async with self._ranges.hold(start, end):
                await self._disk.discard(start, end - start)

    async def flush(self) -> None:
        """Returns when all writes that were answered before are durable, whichever connection they came by."""
        await self._disk.flush()

    # --- Private ------------------------------------------------------------------------------------------------------

    def _check(self, offset: int, length: int, beyond: int) -> None:
        if offset + length > self.size():
            # A disk that has grown says so to whoever asks for more.
            end = -(-(offset + length) // self._block) * self._block
            try:
                self._disk.disk.check_read((end - self._block) // SECTOR_SIZE, self._block)
            except InvalidParam as error:
                raise InvalidParam(f"{length} bytes at {offset} are not on the disk", errno=beyond) from error

    def _check_change(self, offset: int, length: int) -> None:
        if self.readonly:
            raise ReadOnlyDisk("the disk is read-only; nothing was sent")
        self._check(offset, length, errno.ENOSPC)

    def _whole_blocks(self, start: int, end: int) -> tuple[int, int]:
        """The blocks of which some byte is in the range."""
        return start // self._block * self._block, -(-end // self._block) * self._block

    def _inner_blocks(self, start: int, end: int) -> tuple[int, int]:
        """The blocks that are in the range as a whole; none where the first number is not the smaller one."""
        return -(-start // self._block) * self._block, end // self._block * self._block

    async def _read_blocks(self, start: int, end: int) -> Buffer:
        if end - start <= self._step:
            return await self._disk.read(start // SECTOR_SIZE, end - start) if start < end else b""
        data = bytearray(end - start)
        view = memoryview(data)
        await _all_of(
            self._disk.read_into(at // SECTOR_SIZE, view[at - start : stop - start])
            for at, stop in self._pieces(start, end)
        )
        return data

    async def _write_bytes(self, offset: int, view: memoryview) -> None:
        """The caller holds the blocks."""
        end = offset + view.nbytes
        inner_start, inner_end = self._inner_blocks(offset, end)
        if inner_start > inner_end or (inner_start == inner_end and offset < end):
            await self._patch(offset, view)
            return
        await self._patch(offset, view[: inner_start - offset])
        await _all_of(
            self._disk.write(at // SECTOR_SIZE, view[at - offset : stop - offset])
            for at, stop in self._pieces(inner_start, inner_end)
        )
        await self._patch(inner_end, view[inner_end - offset :])

    async def _patch(self, offset: int, view: memoryview) -> None:
        """Change some bytes of one block, or of two."""
        if view.nbytes:
            start, end = self._whole_blocks(offset, offset + view.nbytes)
            data = bytearray(await self._read_blocks(start, end))
            data[offset - start : offset - start + view.nbytes] = view
            await self._disk.write(start // SECTOR_SIZE, data)

    async def _zero_blocks(self, start: int, end: int, unmap: bool) -> None:
        if self._limits.write_zeroes is not None:
            await self._disk.write_zeroes(start, end - start, unmap=unmap)
            return
        zeros = memoryview(bytes(min(self._step, end - start)))
        for at, stop in self._pieces(start, end):
            await self._disk.write(at // SECTOR_SIZE, zeros[: stop - at])

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        for at in range(start, end, self._step):
            yield at, min(at + self._step, end)


async def _all_of(parts: Iterator[Awaitable[object]]) -> None:
    """Until all have ended; then raises what the first of them failed with."""
    for outcome in await asyncio.gather(*parts, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
