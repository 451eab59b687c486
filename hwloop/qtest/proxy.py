"""The device's end of QEMU's multi-process link: a PCI function whose registers and configuration we answer for.

QEMU's `x-pci-proxy-dev` sends every access over a socket (hw/remote/mpqemu-link in QEMU's source) and passes the
memory of the machine as descriptors, so that the device does DMA by itself. One memory BAR of 32 bits, no MSI-X.
"""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from hwloop.errors import HwloopError
from hwloop.owner import Owner
from mmio import MmioError, Region, read_exact, write_exact

MESSAGE_SECONDS = 5.0
"""How long a message may take to arrive once it has begun."""

_HEADER = struct.Struct("<i4xQ")
_RETURN = struct.Struct("<Q")
_SYSMEM = struct.Struct("<8Q8Q8q")
_CONFIG = struct.Struct("<IIi")
_BAR = struct.Struct("<QQIB3x")
_MOST_FDS = 8
_U64 = (1 << 64) - 1


class Command(IntEnum):
    """MPQemuCmd of QEMU 7.2."""

    SYNC_SYSMEM = 0
    RET = 1
    PCI_CFGWRITE = 2
    PCI_CFGREAD = 3
    BAR_WRITE = 4
    BAR_READ = 5
    SET_IRQFD = 6
    DEVICE_RESET = 7


_PAYLOADS = {
    Command.SYNC_SYSMEM: _SYSMEM.size,
    Command.PCI_CFGWRITE: _CONFIG.size,
    Command.PCI_CFGREAD: _CONFIG.size,
    Command.BAR_WRITE: _BAR.size,
    Command.BAR_READ: _BAR.size,
    Command.SET_IRQFD: 0,
    Command.DEVICE_RESET: 0,
}
"""The commands that QEMU sends to a device, and the bytes behind their header."""

_WITH_FDS = (Command.SYNC_SYSMEM, Command.SET_IRQFD)


class ProxyError(HwloopError):
    """QEMU's end of the link sent what is no message of the protocol, or stopped in the middle of one."""


@dataclass(frozen=True)
class Ram:
    """A run of the machine's memory, mapped here: physical `address`, and the bytes."""

    address: int
    bytes: mmap.mmap


class ProxyDevice(Protocol):
    """What answers: a device with its registers at the start of BAR 0, which has `bar_size` bytes."""

    vendor_id: int
    device_id: int
    bar_size: int

    @property
    def registers(self) -> Region: ...

    def memory_changed(self, ram: list[Ram]) -> None:
        """The machine has this memory from now on."""

    def reset(self) -> None:
        """The machine, and so the device, was reset."""


class ConfigBytes:
    """256 bytes of configuration space: type 0, class "unassigned", one 32-bit memory BAR (PCI 3.0, 6.1)."""

    def __init__(self, vendor_id: int, device_id: int, bar_size: int) -> None:
        ids = vendor_id | device_id << 16
        self._words = [ids, 0, 0xFF << 24, *[0] * 61]
        # Writable: decoding and bus mastering of the command register, the address bits of BAR 0, the interrupt line.
        self._writable = {0x04: 0x0000_0406, 0x10: -bar_size & 0xFFFF_FFFF, 0x3C: 0x0000_00FF}

    def read(self, offset: int, length: int) -> int:
        """`length` bytes at `offset`; zero behind the end."""
        data = b"".join(word.to_bytes(4, "little") for word in self._words)
        return int.from_bytes(data[offset : offset + length], "little")

    def write(self, offset: int, length: int, value: int) -> None:
        """Change the bits that can be changed."""
        for byte in range(length):
            at = offset + byte
            mask = self._writable.get(at & ~3, 0) & 0xFF << 8 * (at & 3)
            if mask:
                new = (value >> 8 * byte & 0xFF) << 8 * (at & 3)
                self._words[at >> 2] = self._words[at >> 2] & ~mask | new & mask


class ProxyServer(Owner):
    """Answers for `device` on `sock`, which it owns. `run` returns when QEMU closes its end."""

    def __init__(self, sock: socket.socket, device: ProxyDevice, *, message_seconds: float = MESSAGE_SECONDS) -> None:
        self._socket = sock
        self._device = device
        self._seconds = message_seconds
        self.config = ConfigBytes(device.vendor_id, device.device_id, device.bar_size)
        self.irq_fds: list[int] = []
        self._actions: dict[Command, Callable[[bytes, list[int]], int | None]] = {
            Command.SYNC_SYSMEM: self._sync_memory,
            Command.PCI_CFGWRITE: self._write_config,
            Command.PCI_CFGREAD: self._read_config,
            Command.BAR_WRITE: self._write_bar,
            Command.BAR_READ: self._read_bar,
            Command.SET_IRQFD: self._keep_irq,
            Command.DEVICE_RESET: self._reset,
        }

    def run(self) -> None:
        """Answer until QEMU closes the link. Raises ProxyError for what is no message."""
        while self.serve_one():
            pass

    def serve_one(self) -> bool:
        """Answer one message, waiting for it; False at the end of the link."""
        received = self._receive()
        if received is None:
            return False
        command, payload, fds = received
        if command not in _WITH_FDS:
            _close_all(fds)
        answer = self._actions[command](payload, fds)
        return answer is None or self._send(_HEADER.pack(Command.RET, _RETURN.size) + _RETURN.pack(answer & _U64))

    def close(self) -> None:
        self._socket.close()
        _close_all(self.irq_fds)
        self.irq_fds = []

    # --- Private: messages --------------------------------------------------------------------------------------------

    def _receive(self) -> tuple[Command, bytes, list[int]] | None:
        self._socket.settimeout(None)
        try:
            start, fds = _receive_with_fds(self._socket, _HEADER.size)
        except ConnectionError:
            return None
        if not start:
            return None
        try:
            return *self._receive_rest(start), fds
        except BaseException:
            _close_all(fds)
            raise

    def _receive_rest(self, start: bytes) -> tuple[Command, bytes]:
        number, size = _HEADER.unpack(start + self._receive_exactly(_HEADER.size - len(start)))
        command = Command(number) if number in _PAYLOADS else None
        if command is None:
            raise ProxyError(f"QEMU sent the command {number}, which no device is sent")
        if size != _PAYLOADS[command]:
            raise ProxyError(f"QEMU sent {command.name} with {size} bytes where {_PAYLOADS[command]} belong")
        return command, self._receive_exactly(size)

    def _receive_exactly(self, length: int) -> bytes:
        self._socket.settimeout(self._seconds)
        data = b""
        while len(data) < length:
            try:
                piece = self._socket.recv(length - len(data))
            except TimeoutError:
                raise ProxyError(f"QEMU stopped in the middle of a message, for {self._seconds:g} s") from None
            if not piece:
                raise ProxyError("QEMU closed the link in the middle of a message")
            data += piece
        return data

    def _send(self, message: bytes) -> bool:
        try:
            self._socket.sendall(message)
        except ConnectionError:
            return False
        return True

    # --- Private: what each message asks for --------------------------------------------------------------------------

    def _sync_memory(self, payload: bytes, fds: list[int]) -> None:
        fields = _SYSMEM.unpack(payload)
        try:
            self._device.memory_changed(
                [_map(fd, fields[i], fields[8 + i], fields[16 + i]) for i, fd in enumerate(fds)]
            )
        finally:
            _close_all(fds)

    def _write_config(self, payload: bytes, fds: list[int]) -> int:
        offset, value, length = _config_access(payload)
        self.config.write(offset, length, value)
        return 0

    def _read_config(self, payload: bytes, fds: list[int]) -> int:
        offset, _, length = _config_access(payload)
        return self.config.read(offset, length)

    def _write_bar(self, payload: bytes, fds: list[int]) -> int:
        offset, value, width = self._bar_access(payload)
        try:
            if offset + width <= self._device.registers.size:
                write_exact(self._device.registers, offset, width, value & (1 << 8 * width) - 1)
        except MmioError:
            # A misaligned write: a real bus would lose it too.
            return 0
        return 0

    def _read_bar(self, payload: bytes, fds: list[int]) -> int:
        offset, _, width = self._bar_access(payload)
        try:
            if offset + width <= self._device.registers.size:
                return read_exact(self._device.registers, offset, width)
        except MmioError:
            return 0
        return 0

    def _bar_access(self, payload: bytes) -> tuple[int, int, int]:
        """QEMU gives the address on the bus; BARs are aligned to their size."""
        address, value, width, _ = _BAR.unpack(payload)
        if width not in (1, 2, 4, 8):
            raise ProxyError(f"QEMU sent an access of {width} bytes to BAR 0")
        return address % self._device.bar_size, value, width

    def _keep_irq(self, payload: bytes, fds: list[int]) -> None:
        _close_all(self.irq_fds)
        self.irq_fds = fds

    def _reset(self, payload: bytes, fds: list[int]) -> int:
        self._device.reset()
        return 0


def _config_access(payload: bytes) -> tuple[int, int, int]:
    offset, value, length = _CONFIG.unpack(payload)
    if length not in (1, 2, 4) or offset + length > 256:
        raise ProxyError(f"QEMU sent an access of {length} bytes at {offset:#x} of configuration space")
    return offset, value, length


def _receive_with_fds(sock: socket.socket, length: int) -> tuple[bytes, list[int]]:
    """The first bytes of a message, and the descriptors that came with them."""
    fds = array.array("i")
    data, ancillary, _, _ = sock.recvmsg(length, socket.CMSG_SPACE(_MOST_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, fds.tolist()


def _map(fd: int, address: int, size: int, offset: int) -> Ram:
    """Memory of the machine; its file has to hold it, or an access would kill us."""
    end = os.fstat(fd).st_size
    if offset < 0 or not 0 < size <= end - offset:
        raise ProxyError(f"QEMU passed {size} bytes at {offset} of memory that has {end} bytes")
    try:
        return Ram(address, mmap.mmap(fd, size, offset=offset))
    except (OSError, ValueError, OverflowError) as error:
        raise ProxyError(f"memory that QEMU passed cannot be mapped: {error}") from error


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
