"""The device's end of QEMU's multi-process link, spoken to by a QEMU of bytes."""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from hwloop.qtest.proxy import Command, ConfigBytes, ProxyError, ProxyServer, Ram
from mmio import FakeRegion, Region

BAR = 0x10000


@dataclass
class Device:
    vendor_id: int = 0x1234
    device_id: int = 0x5678
    bar_size: int = BAR
    registers: Region = field(default_factory=lambda: FakeRegion(24))
    ram: list[Ram] = field(default_factory=list)
    resets: int = 0

    def memory_changed(self, ram: list[Ram]) -> None:
        self.ram = ram

    def reset(self) -> None:
        self.resets += 1


class Qemu:
    """The other end: sends messages, and lets the server answer each at once."""

    def __init__(self, server: ProxyServer, sock: socket.socket) -> None:
        self.server = server
        self.socket = sock

    def send(self, command: int, payload: bytes = b"", fds: list[int] | None = None, size: int | None = None) -> None:
        header = struct.pack("<i4xQ", command, len(payload) if size is None else size)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([header, payload], rights)

    def ask(self, command: int, payload: bytes = b"") -> int:
        self.send(command, payload)
        assert self.server.serve_one()
        number, size, value = struct.unpack("<i4xQQ", self.socket.recv(24))
        assert (number, size) == (Command.RET, 8)
        return int(value)

    def config(self, offset: int, length: int, value: int | None = None) -> int:
        command = Command.PCI_CFGREAD if value is None else Command.PCI_CFGWRITE
        return self.ask(command, struct.pack("<IIi", offset, value or 0, length))

    def bar(self, address: int, width: int, value: int | None = None) -> int:
        command = Command.BAR_READ if value is None else Command.BAR_WRITE
        return self.ask(command, struct.pack("<QQIB3x", address, value or 0, width, 1))

    def sysmem(self, runs: list[tuple[int, int, int]], fds: list[int]) -> None:
        columns = [[run[i] for run in runs] + [0] * (8 - len(runs)) for i in range(3)]
        self.send(Command.SYNC_SYSMEM, struct.pack("<8Q8Q8q", *columns[0], *columns[1], *columns[2]), fds)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def qemu(device: Device) -> Iterator[Qemu]:
    ours, theirs = socket.socketpair()
    with ProxyServer(ours, device, message_seconds=0.05) as server, theirs:
        yield Qemu(server, theirs)


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 8192)
    yield fd
    os.close(fd)


def copies(fd: int) -> int:
    """How many descriptors of this process are of the same file; a mapping keeps one of its own."""
    inode, count = os.fstat(fd).st_ino, 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.stat(f"/proc/self/fd/{name}").st_ino == inode
    return count


def test_registers_are_accessed_once_with_the_width_that_was_asked(qemu: Qemu, device: Device) -> None:
    seen: list[tuple[int, ...]] = []
    device.registers = FakeRegion(
        24,
        on_read=lambda offset, width: seen.append((offset, width)) or 0x77,
        on_write=lambda offset, width, value: seen.append((offset, width, value)),  # type: ignore[func-returns-value]
    )
    assert qemu.bar(0xCAFE0004, 4, 0x12345678) == 0
    assert qemu.bar(0xCAFE0004, 2) == 0x77
    assert seen == [(4, 4, 0x12345678), (4, 2)]


def test_behind_the_registers_the_bar_is_empty(qemu: Qemu) -> None:
    assert qemu.bar(0xCAFE0018, 4, 1) == 0
    assert qemu.bar(0xCAFE0018, 4) == 0
    assert qemu.bar(0xCAFE0014, 8) == 0


def test_a_misaligned_access_is_lost_and_nothing_else(qemu: Qemu) -> None:
    assert qemu.bar(0xCAFE0001, 4, 0x11223344) == 0
    assert qemu.bar(0xCAFE0001, 4) == 0
    assert qemu.bar(0xCAFE0000, 4) == 0


def test_the_function_says_what_it_is_and_sizes_its_bar(qemu: Qemu) -> None:
    assert qemu.config(0, 4) == 0x56781234
    assert qemu.config(0x0E, 1) == 0
    qemu.config(0x10, 4, 0xFFFFFFFF)
    assert qemu.config(0x10, 4) == 0xFFFF0000
    qemu.config(0x10, 4, 0xCAFE0000)
    assert qemu.config(0x10, 4) == 0xCAFE0000
    for offset in (0x14, 0x24, 0x30):
        qemu.config(offset, 4, 0xFFFFFFFF)
        assert qemu.config(offset, 4) == 0


def test_only_what_can_be_changed_in_configuration_space_is() -> None:
    config = ConfigBytes(1, 2, BAR)
    config.write(0, 4, 0xFFFFFFFF)
    config.write(4, 2, 0xFFFF)
    config.write(0x3C, 1, 11)
    config.write(0x12, 2, 0xCAFE)
    config.write(0xFE, 2, 1)
    assert (config.read(0, 4), config.read(4, 2), config.read(0x3C, 1), config.read(0x10, 4)) == (
        0x00020001,
        0x0406,
        11,
        0xCAFE0000,
    )


def test_the_memory_of_the_machine_is_mapped_and_no_descriptor_stays_open(
    qemu: Qemu, device: Device, memory: int
) -> None:
    qemu.sysmem([(0, 4096, 0), (0x100000, 4096, 4096)], [memory, memory])
    assert qemu.server.serve_one()
    assert [(run.address, len(run.bytes)) for run in device.ram] == [(0, 4096), (0x100000, 4096)]
    device.ram[1].bytes[0] = 0x5A
    assert os.pread(memory, 1, 4096) == b"\x5a"
    assert copies(memory) == 1 + len(device.ram)


def test_a_reset_reaches_the_device(qemu: Qemu, device: Device) -> None:
    assert qemu.ask(Command.DEVICE_RESET) == 0
    assert device.resets == 1


def test_interrupt_descriptors_are_kept_and_closed_with_the_server(qemu: Qemu) -> None:
    read, write = os.pipe()
    qemu.send(Command.SET_IRQFD, fds=[write])
    assert qemu.server.serve_one()
    os.close(write)
    (kept,) = qemu.server.irq_fds
    os.write(kept, b"!")
    qemu.server.close()
    assert os.read(read, 2) == b"!"
    assert os.read(read, 1) == b""
    os.close(read)


def test_the_end_of_the_link_is_the_end_of_the_server(qemu: Qemu) -> None:
    qemu.socket.close()
    qemu.server.run()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (struct.pack("<i4xQ", 99, 0), "command 99"),
        (struct.pack("<i4xQ", -1, 0), "command -1"),
        (struct.pack("<i4xQ", Command.RET, 8) + bytes(8), "command 1"),
        (struct.pack("<i4xQ", Command.BAR_READ, 1 << 63), "BAR_READ with 9223372036854775808 bytes where 24"),
        (struct.pack("<i4xQ", Command.PCI_CFGREAD, 0), "PCI_CFGREAD with 0 bytes where 12"),
        (struct.pack("<i4xQIIi", Command.PCI_CFGREAD, 12, 0, 0, 3), "access of 3 bytes at 0x0"),
        (struct.pack("<i4xQIIi", Command.PCI_CFGREAD, 12, 254, 0, 4), "access of 4 bytes at 0xfe"),
        (struct.pack("<i4xQIIi", Command.PCI_CFGWRITE, 12, 0, 0, -4), "access of -4 bytes"),
        (struct.pack("<i4xQQQI4x", Command.BAR_READ, 24, 0, 0, 3), "access of 3 bytes to BAR 0"),
        (b"\x01\x02", "stopped in the middle"),
        (struct.pack("<i4xQ", Command.BAR_READ, 24) + bytes(3), "stopped in the middle"),
    ],
)
def test_what_is_no_message_ends_the_server_with_an_error(qemu: Qemu, message: bytes, words: str) -> None:
    qemu.socket.sendall(message)
    with pytest.raises(ProxyError, match=words):
        qemu.server.run()


def test_a_link_that_is_cut_within_a_message_is_an_error(qemu: Qemu) -> None:
    qemu.socket.sendall(bytes(7))
    qemu.socket.close()
    with pytest.raises(ProxyError, match="closed the link in the middle"):
        qemu.server.run()


@pytest.mark.parametrize("run", [(0, 16384, 0), (0, 0, 0), (0, 4096, -4096), (0, 4096, 8192), (0, 4096, 1)])
def test_memory_that_its_file_does_not_hold_is_not_mapped(
    qemu: Qemu, device: Device, memory: int, run: tuple[int, int, int]
) -> None:
    qemu.sysmem([run], [memory])
    with pytest.raises(ProxyError, match="memory"):
        qemu.server.run()
    assert device.ram == []
    assert copies(memory) == 1


def test_descriptors_that_come_with_what_is_no_message_are_closed(qemu: Qemu, memory: int) -> None:
    qemu.send(42, fds=[memory])
    with pytest.raises(ProxyError):
        qemu.server.run()
    assert copies(memory) == 1


def test_descriptors_that_belong_to_no_command_are_closed(qemu: Qemu, memory: int) -> None:
    qemu.send(Command.DEVICE_RESET, fds=[memory])
    assert qemu.server.serve_one()
    assert copies(memory) == 1


def test_a_qemu_that_is_gone_when_it_is_answered_ends_the_server(qemu: Qemu) -> None:
    thread = threading.Thread(target=qemu.server.run)
    qemu.send(Command.DEVICE_RESET)
    qemu.socket.close()
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
