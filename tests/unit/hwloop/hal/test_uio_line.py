"""The interrupt of a device on no bus: a descriptor that counts, with a socket in the place of the kernel's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwloop.errors import DeviceLost, SetupError
from hwloop.hal.devmem import DevMemHal
from hwloop.hal.uio_line import UioLine
from tests.unit.hwloop.hal.paper import huge_pages_on_paper
from udev.fake import FakeSysfs

ON, OFF = (1).to_bytes(4, "little"), bytes(4)


class Kernel:
    """The other side: it sees what is written, and says how many interrupts there were."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)

    def count(self, total: int) -> None:
        self.ours.send(total.to_bytes(4, "little"))

    def written(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.ours.recv(8))
            except BlockingIOError:
                return found


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    kernel.theirs.setblocking(False)
    monkeypatch.setattr(os, "open", lambda path, flags: os.dup(kernel.theirs.fileno()))
    yield kernel
    kernel.ours.close()
    kernel.theirs.close()


def test_the_line_is_on_from_the_start_and_off_in_the_end(kernel: Kernel) -> None:
    with UioLine(Path("/dev/uio0")) as line:
        assert kernel.written() == [ON]
        line.mask()
        assert kernel.written() == [OFF]
        line.rearm()
        assert kernel.written() == [ON]
    line.close()
    assert kernel.written() == [OFF]


def test_interrupts_are_counted_across_the_wrap(kernel: Kernel) -> None:
    with UioLine(Path("/dev/uio0")) as line:
        assert not line.wait(0)
        kernel.count(0xFFFF_FFFE)
        assert line.wait(30)
        kernel.count(1)
        assert line.wait(30)
        assert line.count == 1 + 3
        assert line.needs_ack


def test_a_device_that_goes_is_lost(kernel: Kernel) -> None:
    with UioLine(Path("/dev/uio0")) as line:
        kernel.ours.shutdown(socket.SHUT_WR)
        with pytest.raises(DeviceLost, match="/dev/uio0 does not answer any more"):
            line.wait(5)


def test_a_node_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot open .*/uio7"):
        UioLine(tmp_path / "uio7")


def test_the_hal_of_the_memory_device_brings_it_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel
) -> None:
    huge_pages_on_paper(monkeypatch)
    sysfs = FakeSysfs(tmp_path / "tree").sysfs
    hal = DevMemHal(tmp_path / "mem", sysfs, Path("/dev/uio0"))
    line = hal.interrupt()
    assert isinstance(line, UioLine)
    line.close()
    assert hal.interrupt(0) is None
    assert DevMemHal(tmp_path / "mem", sysfs).interrupt() is None
