"""svirtb as a target: a disk image behind the device model in this process."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import pytest

import hwloop
from hwloop import session
from hwloop.cli.main import run
from hwloop.device.svirtb import SvirtbBlk
from hwloop.device.svirtb_memory import BytesBacking, HalMemory
from hwloop.device.svirtb_model import SimpleVirtIoBlockDev
from hwloop.device.svirtb_protocol import VirtIoStatus
from hwloop.door import svirtb as door
from hwloop.errors import InvalidParam, RefusedError, SetupError, TransportError, Unsupported
from hwloop.hal.fake import FakeHal
from hwloop.lock import DeviceLock
from hwloop.spec import DeviceType
from udev import Sysfs


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 256)
    return path


def opened(target: str) -> SvirtbBlk:
    disk = hwloop.open(target)
    assert isinstance(disk, SvirtbBlk)
    return disk


def test_an_image_is_read_and_written(image: Path) -> None:
    with opened(f"svirtb:{image}") as disk:
        assert disk.size() == 64 << 10
        assert disk.read(0, 512) == bytes(range(256)) * 2
        disk.write(3, b"s" * 512)
        assert image.read_bytes()[3 * 512 : 4 * 512] == b"s" * 512
        assert disk.queue_size == 64


def test_the_commands_work_on_it(image: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"w" * 1000)
    assert run(["write", f"svirtb:{image}", "100", "-i", str(source)]) == 0
    assert run(["flush", f"svirtb:{image}"]) == 0
    capfdbinary.readouterr()
    assert run(["read", f"svirtb:{image}", "99", "1002"]) == 0
    assert capfdbinary.readouterr().out == b"\x63" + b"w" * 1000 + bytes([1100 % 256])
    assert run(["id", f"svirtb:{image}"]) == 2
    assert b"no serial" in capfdbinary.readouterr().err


def test_the_size_of_the_queue_can_be_chosen(image: Path) -> None:
    with opened(f"svirtb:{image}?queue-size=4") as disk:
        assert (disk.queue_size, disk.requests_free) == (4, 3)


@pytest.mark.parametrize("option", ["queue-size=1", "queue-size=many", "transport=pci"])
def test_an_option_that_cannot_be_is_refused(image: Path, option: str) -> None:
    with pytest.raises(InvalidParam):
        session.find(f"svirtb:{image}?{option}")


def test_finding_an_image_does_not_open_it() -> None:
    found = session.find("svirtb:no/such.img")
    assert (found.name, found.device_type) == ("svirtb:no/such.img", DeviceType.Block)
    with pytest.raises(SetupError, match=r"cannot open no/such\.img"):
        found.open()


def test_an_image_that_is_not_there_can_be_made() -> None:
    with pytest.raises(SetupError, match=r"No such file or directory; make one: truncate -s 16M no/such\.img"):
        opened("svirtb:no/such.img")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_file_is_not_opened(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    calls: list[object] = []
    monkeypatch.setattr("hwloop.device.svirtb_memory.os.open", lambda *arguments: calls.append(arguments))
    with pytest.raises(InvalidParam, match=f"{path} is no file, so no disk image"):
        opened(f"svirtb:{path}")
    assert calls == []


def test_there_is_no_transport_to_look_at(image: Path) -> None:
    with pytest.raises(Unsupported, match="no transport"):
        session.find(f"svirtb:{image}").open_transport()


# --- A real one -------------------------------------------------------------------------------------------------------


class Machine(FakeHal):
    """A machine with a svirtb device at an address of its own, in place of /dev/mem."""

    def __init__(self, path: Path, sysfs: Sysfs) -> None:
        super().__init__()
        self.path = path
        self.model = SimpleVirtIoBlockDev(BytesBacking(bytearray(1 << 20)), HalMemory(self), address=0xD0000000)
        self.model.attach(self.regions)
        DEVICES.append(self.model)


DEVICES: list[SimpleVirtIoBlockDev] = []


@pytest.fixture
def devmem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    DEVICES.clear()
    monkeypatch.setattr(door, "DeviceLock", partial(DeviceLock, run_dir=tmp_path / "run"))
    monkeypatch.setattr(door, "DevMemHal", Machine)


def test_registers_at_an_address_are_a_disk_of_the_size_that_is_given(devmem: None) -> None:
    with opened("svirtb:0xd0000000?size=64k") as disk:
        assert disk.size() == 64 << 10
        disk.write(1, b"r" * 512)
        assert isinstance(disk.hal, Machine)
        assert disk.hal.path == Path("/dev/mem")
    assert DEVICES[0].registers.peek(0, 4) == VirtIoStatus.MAGIC


def test_registers_that_another_process_has_are_refused(devmem: None, tmp_path: Path) -> None:
    with opened("svirtb:0xd0000000?size=64k"), pytest.raises(RefusedError, match="in use by another hwloop"):
        opened("svirtb:0xD0000000?size=64k")
    assert len(DEVICES) == 1, "the second one did not even map them"
    assert list((tmp_path / "run").iterdir()) == []


def test_a_device_that_a_dead_driver_left_is_taken_over_on_request(
    devmem: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left(Machine):
        def __init__(self, path: Path, sysfs: Sysfs) -> None:
            super().__init__(path, sysfs)
            self.model._set_status(VirtIoStatus.READY)

    monkeypatch.setattr(door, "DevMemHal", Left)
    with pytest.raises(TransportError, match="reset=on"):
        opened("svirtb:0xd0000000?size=64k")
    with opened("svirtb:0xd0000000?size=64k&reset=on") as disk:
        assert disk.read(0, 512) == bytes(512)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("svirtb:0xcafe0000", r"says nothing of its size; give it: svirtb:0xcafe0000\?size=16M"),
        ("svirtb:0xcafe0000?size=100", "100 bytes is not whole sectors"),
        ("svirtb:0xcafe0000?size=0", "0 bytes is not whole sectors"),
        ("svirtb:0xcafe0000?size=1M&reset=maybe", "cannot be 'maybe'"),
    ],
)
def test_registers_without_a_size_that_can_be_are_refused(target: str, words: str) -> None:
    with pytest.raises(InvalidParam, match=words):
        session.find(target)


def test_everything_is_given_back(image: Path) -> None:
    disk = opened(f"svirtb:{image}")
    with pytest.raises(RefusedError, match="in use"):
        opened(f"svirtb:{image}")
    disk.close()
    assert "svirtb" not in [thread.name for thread in threading.enumerate()]
    opened(f"svirtb:{image}").close()
