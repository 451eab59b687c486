"""Registers of a machine that is driven through qtest: each access is one command, and one bus access in QEMU."""

from __future__ import annotations

import errno

from hwloop.qtest.client import QtestClient
from mmio import MmioError
from mmio.region import RegionBase

_LAST_PORT = 0xFFFF


class QtestMemory(RegionBase):
    """`size` bytes at guest-physical `address`. Closing it leaves the client open."""

    def __init__(self, client: QtestClient, address: int, size: int) -> None:
        super().__init__(size, base=address)
        self.address = address
        self._client = client

    def _read(self, offset: int, width: int) -> int:
        return self._client.read(self.address + offset, width)

    def _write(self, offset: int, width: int, value: int) -> None:
        self._client.write(self.address + offset, width, value)

    def __repr__(self) -> str:
        return f"QtestMemory({self.address:#x}, {self.size:#x})"


class QtestPorts(RegionBase):
    """`size` I/O ports from `port` on; there are no accesses of 64 bits. Closing it leaves the client open."""

    def __init__(self, client: QtestClient, port: int, size: int) -> None:
        if not 0 <= port <= port + size - 1 <= _LAST_PORT:
            raise MmioError(errno.EINVAL, f"{size} I/O ports at {port:#x} are not all below {_LAST_PORT + 1:#x}")
        super().__init__(size, base=port)
        self.port = port
        self._client = client

    def _read(self, offset: int, width: int) -> int:
        return self._client.read_port(self.port + offset, _port_width(width))

    def _write(self, offset: int, width: int, value: int) -> None:
        self._client.write_port(self.port + offset, _port_width(width), value)

    def __repr__(self) -> str:
        return f"QtestPorts({self.port:#x}, {self.size:#x})"


def _port_width(width: int) -> int:
    if width == 8:
        raise MmioError(errno.EINVAL, "no access to an I/O port is 8 bytes wide: use two of 4")
    return width
