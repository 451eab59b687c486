"""Memory and disks as the svirtb device model sees them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
from abc import ABC, abstractmethod

from hwloop.errors import InvalidParam, RefusedError, SetupError
from hwloop.hal.fake import DmaFault, FakeHal
from hwloop.owner import Owner
from hwloop.qtest.proxy import Ram


class BadAddress(LookupError):
    """The driver named memory that is not there, or not the device's to use like that."""


class Memory(ABC):
    """What the device reaches by DMA. Every method raises BadAddress."""

    @abstractmethod
    def read(self, address: int, length: int) -> bytes:
        """Bytes that the driver wrote."""

    @abstractmethod
    def write(self, address: int, data: bytes) -> None:
        """Bytes for the driver."""


class HalMemory(Memory):
    """What a driver in this process shared with its device through a `FakeHal`, and nothing else."""

    def __init__(self, hal: FakeHal) -> None:
        self.hal = hal

    def read(self, address: int, length: int) -> bytes:
        return ctypes.string_at(self._translate(address, length, writable=False), length)

    def write(self, address: int, data: bytes) -> None:
        ctypes.memmove(self._translate(address, len(data), writable=True), data, len(data))

    def _translate(self, address: int, length: int, *, writable: bool) -> int:
        try:
            return self.hal.translate(address, length, writable)
        except DmaFault as fault:
            raise BadAddress(str(fault)) from fault


class GuestRam(Memory):
    """The memory of a machine, as runs that are mapped here."""

    def __init__(self, blocks: list[Ram] | None = None) -> None:
        self.blocks = blocks or []

    def read(self, address: int, length: int) -> bytes:
        block, start = self._find(address, length)
        return block.bytes[start : start + length]

    def write(self, address: int, data: bytes) -> None:
        block, start = self._find(address, len(data))
        block.bytes[start : start + len(data)] = data

    def _find(self, address: int, length: int) -> tuple[Ram, int]:
        for block in self.blocks:
            if block.address <= address and address + length <= block.address + len(block.bytes):
                return block, address - block.address
        raise BadAddress(f"{length} bytes at {address:#x} are not in the memory of the machine")


class Backing(Owner):
    """The bytes of a disk; `size` of them."""

    size: int

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """Raises OSError."""

    @abstractmethod
    def write(self, offset: int, data: bytes) -> None:
        """Durable when it returns. Raises OSError."""


class BytesBacking(Backing):
    """A disk in memory."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data

    def close(self) -> None:
        """Memory needs no closing."""


class FileBacking(Backing):
    """A disk image, which nobody else of us may use meanwhile.

    Raises SetupError when it cannot be opened for writing, RefusedError when it is in use, InvalidParam when it is
    no file, or not whole sectors.
    """

    def __init__(self, path: str) -> None:
        self._fd = _open_image(path)
        try:
            self.size = _usable_size(self._fd, path)
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) < length:
            raise OSError(5, f"the image ends {length - len(data)} bytes early")
        return data

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _open_image(path: str) -> int:
    """Only a file: nothing here would keep a disk of this machine from being written while the kernel uses it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InvalidParam(f"{path} is no file, so no disk image", remedy="give a file: truncate -s 16M disk.img")
        # The protocol cannot flush, so that a write that completes has to be on the disk.
        return os.open(path, os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise SetupError.refused(f"cannot open {path}", error, remedy=f"make one: truncate -s 16M {path}") from error
    except InvalidParam:
        raise
    except (OSError, ValueError) as error:
        text, code = (error.strerror, error.errno) if isinstance(error, OSError) else (str(error), None)
        raise SetupError(f"cannot open {path}: {text}", errno=code, remedy="give a file that can be written") from error


def _usable_size(fd: int, path: str) -> int:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RefusedError(f"{path} is in use", remedy="end the program that has it open") from None
    size = os.lseek(fd, 0, os.SEEK_END)
    if not size or size % 512:
        raise InvalidParam(
            f"{path} has {size} bytes, which is no disk of whole sectors",
            remedy=f"give it a size: truncate -s 16M {path}",
        )
    return size
