"""Where bytes come from: a device, a file with its holes, a pipe."""

from __future__ import annotations

import errno
import os
import stat
from abc import abstractmethod
from collections.abc import Iterator
from typing import BinaryIO

from hwloop.device.block import BlockDevice
from hwloop.device.stream import check_range, read_views
from hwloop.errors import InvalidParam, SetupError
from hwloop.owner import Owner
from hwloop.transfer.piece import PIECE_BYTES, Piece


class Source(Owner):
    """Bytes that are read once, in order. `name` is what messages call it."""

    name = ""

    @abstractmethod
    def size(self) -> int | None:
        """How many bytes there are from its start on; None: not known before the end."""

    @abstractmethod
    def pieces(self, offset: int, length: int | None) -> Iterator[Piece]:
        """The bytes from `offset` on, in order and without a gap; None: all there are."""


class DiskSource(Source):
    """A block device, all of it data; it closes the device."""

    def __init__(self, disk: BlockDevice, name: str) -> None:
        self.disk = disk
        self.name = name

    def size(self) -> int:
        return self.disk.size()

    def pieces(self, offset: int, length: int | None) -> Iterator[Piece]:
        length = self.size() - offset if length is None else length
        check_range(self.disk, offset, length)
        for view in read_views(self.disk, offset, length):
            count = len(view)
            yield Piece(offset, count, view)
            offset += count

    def close(self) -> None:
        self.disk.close()


class FileSource(Source):
    """A regular file, whose holes are not read (SEEK_HOLE), or a block device of the kernel's."""

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._size = os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise SetupError.refused(f"cannot read {path}", error) from error

    def size(self) -> int:
        return self._size

    def pieces(self, offset: int, length: int | None) -> Iterator[Piece]:
        end = self._size if length is None else offset + length
        while offset < end:
            data = min(self._seek(offset, os.SEEK_DATA, end), end)
            if data > offset:
                yield Piece(offset, data - offset, None)
            offset = min(self._seek(data, os.SEEK_HOLE, end), end) if data < end else end
            yield from self._data(data, offset)

    def _seek(self, offset: int, whence: int, end: int) -> int:
        """Where the next data or the next hole is; a file system that does not know says: all of it is data."""
        try:
            return os.lseek(self._descriptor, offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return end
            return offset if whence == os.SEEK_DATA else end

    def _data(self, offset: int, end: int) -> Iterator[Piece]:
        memory = memoryview(bytearray(min(PIECE_BYTES, end - offset)))
        while offset < end:
            try:
                count = os.preadv(self._descriptor, [memory[: end - offset]], offset)
            except OSError as error:
                raise SetupError.refused(f"cannot read {self.name}", error) from error
            if not count:
                raise InvalidParam(f"{self.name} became shorter while it was read: it ends at {offset}")
            yield Piece(offset, count, memory[:count])
            offset += count

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class StreamSource(Source):
    """A pipe or a terminal, read to its end; it closes the stream."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self.name = name

    def size(self) -> None:
        return None

    def pieces(self, offset: int, length: int | None) -> Iterator[Piece]:
        position = 0
        while position < offset:
            position += len(self._read(min(PIECE_BYTES, offset - position), position))
        while length is None or position < offset + length:
            wanted = PIECE_BYTES if length is None else min(PIECE_BYTES, offset + length - position)
            chunk = self._read(wanted, position) if length is not None else self._stream.read(wanted)
            if not chunk:
                return
            yield Piece(position, len(chunk), chunk)
            position += len(chunk)

    def _read(self, wanted: int, position: int) -> bytes:
        chunk = self._stream.read(wanted)
        if not chunk:
            raise InvalidParam(f"{self.name} ended after {position} bytes, before all that was asked for")
        return chunk

    def close(self) -> None:
        self._stream.close()


def open_path(path: str) -> Source:
    """The source for a path: a regular file, a block device, or something that is read like a pipe. Raises
    SetupError."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise SetupError.refused(f"cannot read {path}", error, remedy="") from error
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return FileSource(path)
    if stat.S_ISDIR(mode):
        raise InvalidParam(f"{path} is a folder")
    try:
        return StreamSource(open(path, "rb"), path)
    except OSError as error:
        raise SetupError.refused(f"cannot read {path}", error) from error
