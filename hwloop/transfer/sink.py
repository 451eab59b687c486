"""Where bytes go: a device, a file that may have holes, a pipe."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any, BinaryIO

from hwloop.device.blk_ranges import BlkRanges
from hwloop.device.block import BlockDevice
from hwloop.device.stream import read_range
from hwloop.device.writer import BlockWriter, check_range
from hwloop.errors import InvalidParam, SetupError, Unsupported
from hwloop.owner import Owner
from hwloop.transfer.piece import PIECE_BYTES

_KEEP_SIZE, _PUNCH_HOLE = 1, 2


class Sink(Owner):
    """Bytes that are written at offsets, ascending. `name` is what messages call it."""

    name = ""
    is_pipe = False
    """Every byte goes through, and none of them can be read back."""

    def size(self) -> int | None:
        """How many bytes there are; None: as many as are written."""
        return None

    def begin(self) -> None:
        """From here on something is changed: it is called once the sizes are known to fit."""

    @abstractmethod
    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Take bytes."""

    @abstractmethod
    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, in the cheapest way that there is."""

    @abstractmethod
    def finish(self, end: int) -> None:
        """All is written, up to `end`: make it durable."""

    def read(self, offset: int, length: int) -> bytes:
        """What was written there, for a look at it; not of a pipe."""
        raise Unsupported(f"{self.name} cannot be read back")

    def _do(self, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SetupError.refused(f"cannot write {self.name}", error) from error


class DiskSink(Sink):
    """A block device; it closes the device.

    Zeros are WRITE_ZEROES requests, which may also give up the space, where the device has them, and else are written.
    """

    def __init__(self, disk: BlockDevice, name: str, *, may_write_zeroes: bool = True, unmap: bool = True) -> None:
        self.disk = disk
        self.name = name
        self._writer = BlockWriter(disk)
        self._write_zeroes = write_zeroes_of(disk, unmap=unmap) if may_write_zeroes else None

    def size(self) -> int:
        return self.disk.size()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        # What fits is written, and then the error says what did not.
        room = max(0, self.size() - offset)
        self._writer.write(offset, data if len(data) <= room else bytes(data[:room]))
        if len(data) > room:
            self._writer.finish()
            check_range(self.disk, offset, len(data))

    def zero(self, offset: int, length: int) -> None:
        check_range(self.disk, offset, length)
        block = self.disk.block_size()
        start, end = -(-offset // block) * block, (offset + length) // block * block
        if self._write_zeroes is None or start >= end:
            self._write_zeros(offset, offset + length)
            return
        # The parts of a block go with the data beside them.
        self._write_zeros(offset, start)
        self._writer.flush()
        self._write_zeroes(start, end - start)
        self._write_zeros(end, offset + length)

    def _write_zeros(self, offset: int, end: int) -> None:
        for at in range(offset, end, PIECE_BYTES):
            self._writer.write(at, bytes(min(PIECE_BYTES, end - at)))

    def finish(self, end: int) -> None:
        self._writer.finish()
        self.disk.flush()

    def read(self, offset: int, length: int) -> bytes:
        return b"".join(read_range(self.disk, offset, length))

    def close(self) -> None:
        self._writer.settle()
        self.disk.close()


def write_zeroes_of(disk: BlockDevice, *, unmap: bool = True) -> Callable[[int, int], object] | None:
    """The disk's own way to zero a range of whole blocks, or None when it has none. With `unmap` it may give up the
    space; qemu-storage-daemon does, though its write_zeroes_may_unmap says that it would not."""
    limits = disk.limits
    if not isinstance(disk, BlkRanges) or limits.write_zeroes is None:
        return None
    return partial(disk.write_zeroes, unmap=unmap)


class FileSink(Sink):
    """A regular file, which is made if there is none. `keep` leaves in place what lies around the range that is
    written; without it the file has nothing else.

    Zeros become holes. Raises SetupError with what the file system says.
    """

    def __init__(self, path: str, *, keep: bool = False) -> None:
        self.name = path
        self._fresh = not keep
        self._descriptor = -1

    def begin(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if self._fresh else 0)
        self._descriptor = self._do(os.open, self.name, flags, 0o666)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        count = self._do(os.pwrite, self._descriptor, data, offset)
        while count < len(data):
            count += self._do(os.pwrite, self._descriptor, bytes(data[count:]), offset + count)

    def zero(self, offset: int, length: int) -> None:
        if not self._fresh and not self._do(_punch_hole, self._descriptor, offset, length):
            for at in range(offset, offset + length, PIECE_BYTES):
                self.write(at, bytes(min(PIECE_BYTES, offset + length - at)))

    def finish(self, end: int) -> None:
        if os.fstat(self._descriptor).st_size < end:
            # A hole at the end.
            self._do(os.ftruncate, self._descriptor, end)
        self._do(os.fsync, self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        data: bytes = self._do(os.pread, self._descriptor, length, offset)
        return data

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class StreamSink(Sink):
    """Standard output, or another pipe, where zeros are written; it closes the stream.

    Raises BrokenPipeError when its reader has gone, SetupError for what else goes wrong.
    """

    is_pipe = True

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self.name = name

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._do(self._stream.write, data)

    def zero(self, offset: int, length: int) -> None:
        for at in range(0, length, PIECE_BYTES):
            self.write(at, bytes(min(PIECE_BYTES, length - at)))

    def finish(self, end: int) -> None:
        self._do(self._stream.flush)

    def close(self) -> None:
        # What could not be written was an error before.
        with suppress(OSError):
            self._stream.close()


def open_path(path: str, *, keep: bool = False) -> Sink:
    """The sink for a path: a regular file, or something that is written like a pipe.

    Raises InvalidParam for a folder and for a disk of the kernel's, SetupError.
    """
    mode = 0
    with suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise InvalidParam(f"{path} is a folder", remedy="give the name of a file in it")
    if stat.S_ISBLK(mode):
        raise InvalidParam(
            f"{path} is a disk of the kernel's; hwloop writes to virtio disks only, which it takes from the kernel"
        )
    if mode and not stat.S_ISREG(mode):
        try:
            return StreamSink(open(path, "wb"), path)
        except OSError as error:
            raise SetupError.refused(f"cannot write {path}", error) from error
    return FileSink(path, keep=keep)


@cache
def _fallocate() -> Any:
    """The C library's; Python has posix_fallocate only, which makes no holes."""
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
    return function


def _punch_hole(descriptor: int, offset: int, length: int) -> bool:
    """Make a hole of a range; False where the file system has none."""
    if _fallocate()(descriptor, _PUNCH_HOLE | _KEEP_SIZE, offset, length) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code))
