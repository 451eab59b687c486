"""VFIO in a model of the kernel, for tests: descriptors, what is done with them in which order, and registers."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwloop.hal import vfio_ioctl as vfio
from pci import BarInfo, IoBar, MemoryBar, MemoryBarType

DISK = "0000:00:05.0"
BARS: dict[int, BarInfo] = {
    0: IoBar(0, 0xC000, 0x80),
    1: MemoryBar(1, MemoryBarType.Width32, False, 0xFEBD_0000, 0x1000),
    2: MemoryBar(2, MemoryBarType.Width32, False, 0, 0x1000),
    4: MemoryBar(4, MemoryBarType.Width64, True, 0x38_0000_0000, 0x4000),
}

Handler = Callable[[int, Any], int]


class VfioKernel:
    """A folder of device nodes, and the answers to system calls on them.

    `fail` maps a request to the errno it is refused with, `refuse` the end of a path to the errno with which opening it
    is. `steps` is what was done; `names` the descriptors that are open, each with what it is.
    """

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: tuple[str, ...]) -> None:
        self.dev = tmp_path / "dev"
        for node in nodes:
            (self.dev / node).parent.mkdir(parents=True, exist_ok=True)
            (self.dev / node).write_bytes(bytes(8 << 12))
        self.fail: dict[int, int] = {}
        self.refuse: dict[str, int] = {}
        self.steps: list[str] = []
        self.names: dict[int, str] = {}
        self._open, self._close = os.open, os.close
        monkeypatch.setattr(vfio, "ioctl", self.ioctl)
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "close", self.close)

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if not str(path).startswith(str(self.dev)):
            return self._open(path, flags, mode, **more)
        name = Path(path).name
        if name in self.refuse:
            raise OSError(self.refuse[name], os.strerror(self.refuse[name]))
        assert flags & os.O_CLOEXEC, "a child process would keep the device"
        return self.opened(self._open(path, flags, mode, **more), name)

    def opened(self, fd: int, name: str) -> int:
        self.names[fd] = name
        self.steps.append(f"open {name}")
        return fd

    def close(self, fd: int) -> None:
        if fd in self.names:
            self.steps.append(f"close {self.names.pop(fd)}")
        self._close(fd)

    def ioctl(self, fd: int, request: int, argument: Any = 0) -> int:
        if request in self.fail:
            code = self.fail[request]
            raise OSError(code, os.strerror(code))
        handler = self.handlers().get(request)
        return handler(fd, argument) if handler else 0

    def handlers(self) -> dict[int, Handler]:
        return {vfio.DEVICE_GET_REGION_INFO: self.region_info}

    def region_info(self, fd: int, argument: bytearray) -> int:
        index = struct.unpack_from("<4I", argument)[2]
        size = 0x100 if index == vfio.PCI_CONFIG_REGION else 0x1000
        argument[:] = struct.pack("<4I2Q", 32, 4, index, 0, size, index << 12)
        return 0
