"""Configuration space through sysfs: the `config` file of a device, and the bus as a folder of devices."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType

from pci.access import AbsentConfigAccess, ConfigAccess, check_access, check_value
from pci.access_fd import cut_short, read_at, refused, write_at
from pci.errors import ConfigAccessError
from pci.function import DeviceFunction
from pci.header import HEADER_SIZE

_CLOSED = -1


class SysfsConfigAccess:
    """The file `path`, for instance /sys/bus/pci/devices/0000:00:05.0/config; it owns the descriptors.

    Opening reads nothing. The file is opened for writing at the first write, so a process
    that may only read can read; `read_only` refuses every write. The kernel shows the first 64 bytes to anybody and the
    rest to CAP_SYS_ADMIN. Raises ConfigAccessError with the kernel's errno.
    """

    def __init__(self, path: str | os.PathLike[str], read_only: bool = False) -> None:
        self._path = os.fspath(path)
        self._read_only = read_only
        self._writer = _CLOSED
        self._reader = self._open(os.O_RDONLY)
        self._size = os.fstat(self._reader).st_size

    def __str__(self) -> str:
        return self._path

    @property
    def size(self) -> int:
        """Bytes that the function has, which may be more than the process may read."""
        return self._size

    def read(self, offset: int, width: int) -> int:
        """Raises ConfigAccessError: EACCES past byte 64 without CAP_SYS_ADMIN, EBADF after close()."""
        self._check_open()
        check_access(self, offset, width)
        data = read_at(self, self._reader, offset, width)
        if len(data) != width:
            raise self._short_read(offset, width, len(data))
        return int.from_bytes(data, "little")

    def write(self, offset: int, width: int, value: int) -> None:
        """Raises ConfigAccessError: EACCES when read-only or not root, EBADF after close()."""
        self._check_open()
        check_access(self, offset, width)
        check_value(self, width, value)
        count = write_at(self, self._open_writer(), offset, value.to_bytes(width, "little"))
        if count != width:
            raise cut_short(self, "write", offset, width, count)

    def descriptors(self) -> list[int]:
        """What is open, for a child process that goes on with it."""
        return [fd for fd in (self._reader, self._writer) if fd != _CLOSED]

    def close(self) -> None:
        """Close the descriptors; a second time does nothing."""
        for fd in (self._reader, self._writer):
            if fd != _CLOSED:
                os.close(fd)
        self._reader = self._writer = _CLOSED

    def __enter__(self) -> SysfsConfigAccess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        # Not left to the kernel: a file that is closed must not be opened again by a write.
        if self._reader == _CLOSED:
            raise ConfigAccessError(self, "closed", "", "open it again", code=errno.EBADF)

    def _open(self, flags: int) -> int:
        try:
            return os.open(self._path, flags | os.O_CLOEXEC)
        except OSError as error:
            remedy = "run as root" if error.errno in (errno.EACCES, errno.EPERM) else "check with lspci -D"
            problem = f"cannot be opened: {error.strerror}"
            raise ConfigAccessError(self, problem, "", remedy, code=error.errno) from error

    def _open_writer(self) -> int:
        if self._read_only:
            problem = "opened read-only, so nothing was written"
            raise ConfigAccessError(self, problem, "", "open it with read_only=False", code=errno.EACCES)
        if self._writer == _CLOSED:
            self._writer = self._open(os.O_RDWR)
        return self._writer

    def _short_read(self, offset: int, width: int, count: int) -> ConfigAccessError:
        if offset + width <= HEADER_SIZE:
            return cut_short(self, "read", offset, width, count)
        problem = f"only the first {HEADER_SIZE} bytes can be read without CAP_SYS_ADMIN, and this is at offset"
        return ConfigAccessError(self, problem, offset, "run as root", code=errno.EACCES)


class SysfsRootAccess:
    """Every function that the kernel knows, under `root`/bus/pci/devices; `root` is where sysfs is mounted.

    Holds no descriptor: each access opens the file, so a device that is unplugged and plugged again is the new one.
    """

    def __init__(self, root: str | os.PathLike[str] = "/sys") -> None:
        self._devices = Path(root) / "bus" / "pci" / "devices"

    def config(self, function: DeviceFunction) -> ConfigAccess:
        path = self._devices / str(function) / "config"
        return _SysfsFunction(path) if path.exists() else AbsentConfigAccess(function)


class _SysfsFunction:
    """A `config` file, opened for each access."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    @property
    def size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError as error:
            raise refused(self, "size", 0, error) from error

    def read(self, offset: int, width: int) -> int:
        with SysfsConfigAccess(self._path) as access:
            return access.read(offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        with SysfsConfigAccess(self._path) as access:
            access.write(offset, width, value)
