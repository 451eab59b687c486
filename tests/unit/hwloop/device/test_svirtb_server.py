"""The svirtb device as a process, spoken to as QEMU does."""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwloop.device.svirtb_protocol import SVIRTB_BASE, VirtQueueEntry
from hwloop.qtest.proxy import Command
from tests.unit.hwloop.device.svirtb_bench import HEAD, HI, LO, QUEUE_SIZE, STATUS, TAIL

MAGIC = 0x74726976
SECONDS = 20
RAM = 64 << 10
Start = Callable[[Path], "Link"]


class Link:
    """QEMU's end, and the process at the other one."""

    def __init__(self, image: Path) -> None:
        theirs, self.socket = socket.socketpair()
        self.socket.settimeout(SECONDS)
        module = "hwloop.device.svirtb_server"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, "--fd", str(theirs.fileno()), "--image", str(image)],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )

    def read32(self, offset: int) -> int:
        return self._ask(Command.BAR_READ, struct.pack("<QQIB3x", SVIRTB_BASE + offset, 0, 4, 1))

    def write32(self, offset: int, value: int) -> None:
        self._ask(Command.BAR_WRITE, struct.pack("<QQIB3x", SVIRTB_BASE + offset, value, 4, 1))

    def give_memory(self) -> mmap.mmap:
        fd = os.memfd_create("ram")
        os.ftruncate(fd, RAM)
        memory = mmap.mmap(fd, RAM)
        message = struct.pack("<i4xQ8Q8Q8q", Command.SYNC_SYSMEM, 192, *[0] * 8, RAM, *[0] * 7, *[0] * 8)
        self.socket.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        os.close(fd)
        return memory

    def end(self) -> tuple[int, str]:
        """Closes the link; the exit status of the process and what it wrote."""
        self.socket.close()
        _, text = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, text

    def _ask(self, command: int, payload: bytes) -> int:
        self.socket.sendall(struct.pack("<i4xQ", command, len(payload)) + payload)
        answer = self.socket.recv(24, socket.MSG_WAITALL)
        return int(struct.unpack("<i4xQQ", answer)[2])


@pytest.fixture
def start() -> Iterator[Start]:
    links: list[Link] = []

    def start(image: Path) -> Link:
        links.append(Link(image))
        return links[-1]

    yield start
    for link in links:
        if link.process.returncode is None:
            link.end()


def test_the_process_is_a_disk_and_ends_with_the_link(start: Start, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(512) + b"1" * 512)
    link = start(image)
    memory = link.give_memory()
    assert link.read32(STATUS) == MAGIC
    link.write32(STATUS, 0)
    assert link.read32(STATUS) == 0
    for offset, value in ((QUEUE_SIZE, 4), (HI, 0), (LO, 0x1000)):
        link.write32(offset, value)
    link.write32(STATUS, 1)
    assert link.read32(STATUS) == 1
    memory[0x1000 : 0x1000 + 28] = VirtQueueEntry(0x2000, 512, 1, 0).format()
    link.write32(HEAD, 1)
    for _ in range(10_000):
        if link.read32(TAIL) == 1:
            break
    assert memory[0x2000:0x2200] == b"1" * 512
    assert link.end() == (0, "")


def test_a_broken_rule_is_answered_with_reset_and_told_at_the_end(start: Start, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(512))
    link = start(image)
    link.write32(TAIL, 1)
    assert link.read32(STATUS) == 2
    link.write32(STATUS, 2)
    assert link.read32(STATUS) == MAGIC
    status, text = link.end()
    assert status == 0
    assert text == "svirtb: the driver wrote queue_tail (seed 002, 2: MUST NOT)\n"


def test_an_image_that_cannot_be_opened_is_named(start: Start, tmp_path: Path) -> None:
    status, text = start(tmp_path / "nothing.img").end()
    assert status == 6
    assert "cannot open" in text
    assert "nothing.img" in text
