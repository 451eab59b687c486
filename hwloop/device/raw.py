"""A disk as an unbuffered binary file, for everything in Python that takes one."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Protocol

from hwloop.errors import InvalidParam

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Bytes(Protocol):
    """The part of a disk that a file needs."""

    def size(self) -> int: ...

    def readonly(self) -> bool: ...

    def preadinto(self, buffer: Buffer, offset: int) -> int: ...

    def pwrite(self, data: Buffer, offset: int) -> int: ...

    def flush(self) -> None: ...


class RawDisk(io.RawIOBase):
    """Positions are bytes, and every read or write is a request to the device; `io.BufferedRandom` makes few of many.

    Closing it, or the buffered file on top, flushes and leaves the disk open. Errors are those of `pread` and `pwrite`;
    it has no file descriptor, and its size does not change by writing (`truncate` is refused).
    """

    def __init__(self, disk: Bytes) -> None:
        super().__init__()
        self._disk = disk
        self._position = 0
        self._lock = threading.Lock()

    @property
    def mode(self) -> str:
        return "rb" if self._disk.readonly() else "rb+"

    def readable(self) -> bool:
        self._check_open()
        return True

    def writable(self) -> bool:
        self._check_open()
        return not self._disk.readonly()

    def seekable(self) -> bool:
        self._check_open()
        return True

    def readinto(self, buffer: Buffer) -> int:
        """How many bytes were read: 0 at the end of the disk."""
        self._check_open()
        with self._lock:
            count = self._disk.preadinto(buffer, self._position)
            self._position += count
        return count

    def write(self, data: Buffer) -> int:
        """How many bytes were written, which are fewer at the end of the disk. Raises ENOSPC there."""
        self._check_open()
        with self._lock:
            count = self._disk.pwrite(data, self._position)
            self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """May go behind the end, where there is nothing to read and no room to write."""
        self._check_open()
        with self._lock:
            starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._disk.size()}
            if whence not in starts or starts[whence] + offset < 0:
                raise InvalidParam(f"cannot seek to {offset}, whence {whence}")
            self._position = starts[whence] + offset
            return self._position

    def tell(self) -> int:
        self._check_open()
        return self._position

    def flush(self) -> None:
        """Make what was written durable."""
        self._check_open()
        if not self._disk.readonly():
            self._disk.flush()

    def truncate(self, size: int | None = None) -> int:
        raise InvalidParam("a disk cannot be truncated")

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
