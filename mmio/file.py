"""Registers behind a file: mapped (a memory BAR), or read and written by offset (an I/O BAR, a VFIO region)."""

from __future__ import annotations

import errno
import mmap
import os
import stat

from mmio._access import MappedRegion, buffer_address
from mmio.errors import MmioError
from mmio.region import RegionBase, check_bounds, check_window

_FILE_END = (1 << 63) - 1
"""The largest file offset there is, in bytes (off_t)."""

_HINTS = {
    errno.ENODEV: "the device is gone, or this kind of region takes no such access",
    errno.EIO: "the device did not answer: is its memory or I/O decoding on, and is it awake?",
    errno.EINVAL: "this file does not take accesses of that width",
    errno.EBADF: "the file was closed, or not opened for that direction",
    errno.EACCES: "run as root, or open the file for reading and writing",
    errno.EPERM: "run as root",
    errno.ENOENT: "check the path",
}


class MappedFile(MappedRegion):
    """`size` bytes at `offset` of a file, mapped shared: sysfs `resourceN`, a VFIO or UIO descriptor, a plain file.

    `offset` need not be a multiple of the page size: whole pages are mapped and the rest is added. A descriptor that
    is given stays open; a path is opened and closed again. `close()` unmaps. Raises MmioError with the kernel's errno,
    RegionBoundsError when a plain file is shorter than the window. An access to a file that was cut
    short, or whose device has gone, raises RegionGone.
    """

    def __init__(self, path_or_fd: str | os.PathLike[str] | int, offset: int, size: int, writable: bool = True) -> None:
        check_window(offset, size, _FILE_END, "file window")
        in_page = offset % mmap.ALLOCATIONGRANULARITY
        self._mapping = _map(path_or_fd, offset - in_page, in_page + size, writable)
        # While the view exists the mapping cannot be closed by anyone else.
        self._view = memoryview(self._mapping)
        super().__init__(buffer_address(self._view, False) + in_page, size, self._view, writable)

    def close(self) -> None:
        super().close()
        self._view.release()
        self._mapping.close()


class FdRegion(RegionBase):
    """`size` bytes at `offset` of an open file, one `pread` or `pwrite` of the exact width an access.

    For sysfs `resourceN` of an I/O BAR (widths 1, 2 and 4; the kernel refuses 8) and for VFIO device regions (the
    kernel may do a 64-bit access as two of 32). The descriptor stays the caller's: keep it open as long as the region.
    Raises MmioError with the kernel's errno, and EIO for a transfer that was cut short.
    """

    def __init__(self, fd: int, offset: int, size: int) -> None:
        check_window(offset, size, _FILE_END, "file window")
        super().__init__(size, base=offset)
        self._fd = fd
        self._offset = offset

    def _read(self, offset: int, width: int) -> int:
        try:
            data = os.pread(self._fd, width, self._offset + offset)
        except OSError as error:
            raise self._failed("read", offset, width, error.errno or errno.EIO) from error
        if len(data) != width:
            raise self._failed("read", offset, width, errno.EIO, f"only {len(data)} bytes came")
        return int.from_bytes(data, "little")

    def _write(self, offset: int, width: int, value: int) -> None:
        try:
            count = os.pwrite(self._fd, value.to_bytes(width, "little"), self._offset + offset)
        except OSError as error:
            raise self._failed("write", offset, width, error.errno or errno.EIO) from error
        if count != width:
            raise self._failed("write", offset, width, errno.EIO, f"only {count} bytes went")

    def _failed(self, verb: str, offset: int, width: int, code: int, reason: str = "") -> MmioError:
        where = f"{verb} of {width} bytes at offset {offset:#x} (descriptor {self._fd}, {self._offset + offset:#x})"
        return MmioError(code, f"{where} failed: {reason or explain(code)}")

    def __repr__(self) -> str:
        return f"FdRegion({self._fd}, {self._offset:#x}, {self._size:#x})"


def explain(code: int) -> str:
    """The kernel's words for an errno, and what to do about it where that is known."""
    hint = _HINTS.get(code)
    return f"{os.strerror(code)} ({hint})" if hint else os.strerror(code)


def check_file_holds(fd: int, offset: int, size: int) -> None:
    """Raise RegionBoundsError when a plain file ends before the window does; devices have no length to compare."""
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        check_bounds(offset, size, status.st_size, "file window")


def _map(path_or_fd: str | os.PathLike[str] | int, start: int, length: int, writable: bool) -> mmap.mmap:
    """Map whole pages from `start`; a path is opened for just this long."""
    if isinstance(path_or_fd, int):
        return _map_fd(path_or_fd, f"descriptor {path_or_fd}", start, length, writable)
    path = os.fspath(path_or_fd)
    try:
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        code = error.errno or errno.EIO
        raise MmioError(code, f"{path} cannot be opened: {explain(code)}") from error
    try:
        return _map_fd(fd, path, start, length, writable)
    finally:
        os.close(fd)


def _map_fd(fd: int, subject: str, start: int, length: int, writable: bool) -> mmap.mmap:
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    try:
        check_file_holds(fd, start, length)
        return mmap.mmap(fd, length, flags=mmap.MAP_SHARED, prot=protection, offset=start)
    except MmioError:
        raise
    except OSError as error:
        code = error.errno or errno.EIO
        raise MmioError(code, f"{length:#x} bytes of {subject} cannot be mapped: {explain(code)}") from error
