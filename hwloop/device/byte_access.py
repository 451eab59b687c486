"""A disk as bytes at offsets, whatever its blocks are: what `os.pread` and `os.pwrite` do with a block device."""

from __future__ import annotations

import errno
from abc import abstractmethod
from typing import TYPE_CHECKING

from hwloop.device.byte_range import RangeLock
from hwloop.device.raw import RawDisk
from hwloop.errors import InvalidParam
from hwloop.spec import SECTOR_SIZE

if TYPE_CHECKING:
    from typing_extensions import Buffer


class ByteAccess:
    """Byte-addressed reads and writes of any alignment, over a driver of whole blocks.

    At the end of the disk they do what Linux does: a read returns what there is, and nothing behind the end; a write
    writes what fits, and raises ENOSPC where nothing does. Blocks that a write covers in part are read, changed and
    written back; writes of this kind to the same blocks wait for one another, so that none is lost. `write`,
    `submit_write` and the queues know nothing of that lock.
    """

    _ranges: RangeLock
    _raw: RawDisk | None = None

    @abstractmethod
    def size(self) -> int:
        """The size of the device in bytes."""

    @abstractmethod
    def block_size(self) -> int:
        """The size of a block in bytes."""

    @abstractmethod
    def readonly(self) -> bool:
        """Whether it refuses writes."""

    @abstractmethod
    def read(self, sector: int, length: int) -> bytes:
        """Read whole blocks from a sector on."""

    @abstractmethod
    def read_into(self, sector: int, buffer: Buffer) -> None:
        """Read whole blocks from a sector on, into a buffer."""

    @abstractmethod
    def write(self, sector: int, data: Buffer) -> None:
        """Write whole blocks from a sector on."""

    @abstractmethod
    def flush(self) -> None:
        """Make what was written durable."""

    @abstractmethod
    def _check_writable(self) -> None:
        """Raises ReadOnlyDisk."""

    @property
    def raw(self) -> RawDisk:
        """The disk as an unbuffered binary file (`io.RawIOBase`), for `io.BufferedRandom` and whoever takes a file.

        It is the same one each time until it is closed, which leaves the disk open.
        """
        if self._raw is None or self._raw.closed:
            self._raw = RawDisk(self)
        return self._raw

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes from byte `offset` on: fewer at the end of the disk, none behind it.

        Raises InvalidParam for a negative length or offset, IoError, DeviceLost, DeadlineExpired.
        """
        count = self._readable(length, offset)
        block = self.block_size()
        start, end = offset // block * block, -(-(offset + count) // block) * block
        if not count:
            return b""
        data = self.read(start // SECTOR_SIZE, end - start)
        return data if len(data) == count else data[offset - start : offset - start + count]

    def preadinto(self, buffer: Buffer, offset: int) -> int:
        """As `pread`, into a writable buffer; returns how many bytes of it were filled."""
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise InvalidParam("the buffer to read into cannot be written", remedy="give a bytearray")
        count = self._readable(view.nbytes, offset)
        if count and not (offset | count) % self.block_size():
            self.read_into(offset // SECTOR_SIZE, view[:count])
        elif count:
            view[:count] = self.pread(count, offset)
        return count

    def pwrite(self, data: Buffer, offset: int, *, fua: bool = False) -> int:
        """Write at byte `offset`; returns how many bytes were written, which are fewer at the end of the disk.

        With `fua` they are durable when it returns: a flush follows the write. Raises InvalidParam (ENOSPC where the
        offset is at or behind the end, EINVAL where it is negative), ReadOnlyDisk, and as `pread`.
        """
        view = memoryview(data).cast("B")
        self._check_writable()
        count = self._writable(view.nbytes, offset)
        if count:
            self._write_bytes(view[:count], offset)
        if fua:
            self.flush()
        return count

    # --- Private ------------------------------------------------------------------------------------------------------

    def _readable(self, length: int, offset: int) -> int:
        if length < 0 or offset < 0:
            raise InvalidParam(f"cannot read {length} bytes at {offset}")
        return max(0, min(length, self.size() - offset))

    def _writable(self, length: int, offset: int) -> int:
        if offset < 0:
            raise InvalidParam(f"cannot write at {offset}")
        if length and offset >= self.size():
            raise InvalidParam(f"offset {offset} is the end of the disk or behind it", errno=errno.ENOSPC)
        return min(length, self.size() - offset) if length else 0

    def _write_bytes(self, view: memoryview, offset: int) -> None:
        block = self.block_size()
        end = offset + view.nbytes
        first, last = offset // block * block, -(-end // block) * block
        with self._ranges.hold(first, last):
            if (first, last) == (offset, end):
                self.write(offset // SECTOR_SIZE, view)
                return
            # The blocks at either end that are covered in part, and what is between them as it is.
            inner_start, inner_end = -(-offset // block) * block, end // block * block
            if inner_start >= inner_end:
                self._patch(first, last, view, offset)
                return
            if first < offset:
                self._patch(first, inner_start, view[: inner_start - offset], offset)
            self.write(inner_start // SECTOR_SIZE, view[inner_start - offset : inner_end - offset])
            if end < last:
                self._patch(inner_end, last, view[inner_end - offset :], inner_end)

    def _patch(self, start: int, end: int, view: memoryview, offset: int) -> None:
        """Change some bytes of one block, or of two."""
        data = bytearray(self.read(start // SECTOR_SIZE, end - start))
        data[offset - start : offset - start + view.nbytes] = view
        self.write(start // SECTOR_SIZE, data)
