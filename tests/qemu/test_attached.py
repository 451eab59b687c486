"""A machine that the user has started: `qtest:/path.sock?ram=FILE`."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import hwloop
from hwloop.deadline import wait_until
from hwloop.errors import SetupError, Unsupported
from hwloop.qtest import attached
from hwloop.qtest.machine import MACHINES
from hwloop.session import find
from tests.qemu.conftest import CONTENT

Boot = Callable[..., str]
RAM_MIB = 64


@pytest.fixture
def boot(tmp_path: Path, image: Path) -> Iterator[Boot]:
    """Starts QEMU as the documentation of the door says, and returns the target without its options."""
    with ExitStack() as stack:

        def boot(name: str = "q35", *more: str) -> str:
            machine, qtest = MACHINES[name], tmp_path / "qtest"
            board = ",".join([machine.board, "memory-backend=ram0", *machine.options])
            disk = "virtio-blk-pci" if machine.pci else "virtio-blk-device"
            # QEMU makes the file, if it is not there, some time after it listens.
            with open(tmp_path / "ram", "wb") as file:
                file.truncate(RAM_MIB << 20)
            ram = f"memory-backend-file,id=ram0,size={RAM_MIB}M,mem-path={tmp_path}/ram,share=on"
            process = subprocess.Popen(
                [
                    machine.program, "-M", board, *machine.arguments, "-accel", "tcg", "-S",
                    "-display", "none", "-nodefaults", "-m", f"{RAM_MIB}M", "-object", ram,
                    "-qtest", f"unix:{qtest},server=on,wait=off", "-qtest-log", "none",
                    "-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off",
                    "-drive", f"if=none,id=d0,file={image},format=raw", "-device", f"{disk},drive=d0", *more,
                ],
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
            wait_until(lambda: is_listening(qtest), "QEMU to start", 10)
            return f"qtest:{qtest}?ram={tmp_path}/ram&machine={name}"

        yield boot


def is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def read_first(target: str) -> bytes:
    with hwloop.open(target) as disk:
        assert isinstance(disk, hwloop.VirtioBlk)
        return disk.read(0, 512)


@pytest.mark.parametrize("name", list(MACHINES))
def test_a_machine_is_driven_again_and_again_and_outlives_us(boot: Boot, name: str) -> None:
    target = boot(name)
    for _ in range(3):
        assert read_first(target) == CONTENT


def test_bars_that_were_placed_stay_where_they_are(boot: Boot) -> None:
    target = boot()
    places = []
    for _ in range(2):
        with find(target).open_transport() as opened:
            assert opened.transport.get_status() is not None
            places.append(dict(opened.transport._bars))  # type: ignore[attr-defined]
    assert places[0] == places[1]
    assert all(bar.address for bar in places[0].values())


def test_a_device_is_chosen_by_its_function_or_its_slot(boot: Boot, tmp_path: Path) -> None:
    (tmp_path / "second.img").write_bytes(b"2" * 1024)
    second = f"if=none,id=d1,file={tmp_path}/second.img,format=raw"
    target = boot("q35", "-drive", second, "-device", "virtio-blk-pci,drive=d1,addr=09.0")
    assert read_first(target) == CONTENT
    assert read_first(f"{target}&at=00:09.0") == b"2" * 512
    with pytest.raises(Unsupported, match=r"no virtio function at 00:0a\.0"):
        read_first(f"{target}&at=00:0a.0")


def test_both_interfaces_of_a_transitional_function_can_be_had(boot: Boot) -> None:
    target = boot()
    assert read_first(f"{target}&mode=legacy") == CONTENT
    assert read_first(f"{target}&mode=modern") == CONTENT


def test_interrupts_of_an_mmio_machine_need_qmp(boot: Boot, tmp_path: Path) -> None:
    target = boot("microvm")
    with pytest.raises(Unsupported, match="add qmp=SOCKET"):
        read_first(f"{target}&wait=irq")
    assert read_first(f"{target}&wait=irq&qmp={tmp_path}/qmp") == CONTENT


def test_a_second_client_is_told_that_there_is_one(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    target = boot()
    monkeypatch.setattr(attached, "ANSWER_SECONDS", 0.3)
    with hwloop.open(target), pytest.raises(SetupError, match="serves one client at a time"):
        hwloop.open(target)
    assert read_first(target) == CONTENT


def test_a_socket_on_which_nobody_listens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(bytes(64 << 20))
    with pytest.raises(SetupError, match="No such file or directory; does QEMU listen there"):
        hwloop.open(f"qtest:{tmp_path}/none?ram={tmp_path}/ram")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "dead"))
    with pytest.raises(SetupError, match="Connection refused"):
        hwloop.open(f"qtest:{tmp_path}/dead?ram={tmp_path}/ram")
    with pytest.raises(SetupError, match="too long"):
        hwloop.open(f"qtest:{tmp_path}/{'long' * 50}?ram={tmp_path}/ram")
