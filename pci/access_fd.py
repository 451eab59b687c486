"""Configuration space behind a file descriptor: a region of a VFIO device, or anything that takes pread and pwrite."""

from __future__ import annotations

import errno
import os

from pci.access import ConfigAccess, check_access, check_value
from pci.errors import ConfigAccessError


class FdConfigAccess:
    """`size` bytes of configuration space at `offset` of an open file; an access is one pread or pwrite of its width.

    The descriptor stays the caller's: keep it open as long as this. Nothing outside the window is ever touched.
    """

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._size = size

    def __str__(self) -> str:
        return f"configuration space at {self._offset:#x} of descriptor {self._fd}"

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, width: int) -> int:
        """Raises ConfigAccessError with the kernel's errno, EIO when fewer bytes came."""
        check_access(self, offset, width)
        data = read_at(self, self._fd, self._offset + offset, width)
        if len(data) != width:
            raise cut_short(self, "read", offset, width, len(data))
        return int.from_bytes(data, "little")

    def write(self, offset: int, width: int, value: int) -> None:
        """Raises ConfigAccessError with the kernel's errno, EIO when fewer bytes went."""
        check_access(self, offset, width)
        check_value(self, width, value)
        count = write_at(self, self._fd, self._offset + offset, value.to_bytes(width, "little"))
        if count != width:
            raise cut_short(self, "write", offset, width, count)


def read_at(access: ConfigAccess, fd: int, position: int, width: int) -> bytes:
    """One pread. Raises ConfigAccessError with the kernel's errno."""
    try:
        return os.pread(fd, width, position)
    except OSError as error:
        raise refused(access, "read", position, error) from error


def write_at(access: ConfigAccess, fd: int, position: int, data: bytes) -> int:
    """One pwrite. Raises ConfigAccessError with the kernel's errno."""
    try:
        return os.pwrite(fd, data, position)
    except OSError as error:
        raise refused(access, "write", position, error) from error


def refused(access: ConfigAccess, verb: str, position: int, error: OSError) -> ConfigAccessError:
    """The kernel's refusal, with what usually helps."""
    problem = f"cannot {verb} configuration space: {error.strerror}; file offset"
    return ConfigAccessError(access, problem, position, _HINTS.get(error.errno or 0, ""), code=error.errno)


def cut_short(access: ConfigAccess, verb: str, offset: int, width: int, count: int) -> ConfigAccessError:
    """A transfer of fewer bytes than asked for, and nothing that says why."""
    problem = f"a {verb} of {width} bytes moved {count}, at offset"
    return ConfigAccessError(access, problem, offset, "the device may be gone: check with lspci", code=errno.EIO)


_HINTS = {
    errno.EACCES: "run as root",
    errno.EPERM: "run as root; under kernel lockdown even root may not write",
    errno.ENODEV: "the device was removed",
    errno.EBADF: "it was closed, or opened for the other direction",
}
