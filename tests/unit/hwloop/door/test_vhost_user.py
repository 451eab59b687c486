"""The target `vhost-user:/path.sock`: who is there, who is not, and what a user is told."""

from __future__ import annotations

import errno
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hwloop
from hwloop.cli.main import run
from hwloop.deadline import wait_until
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.device.fake_rng import FakeRng
from hwloop.device.rng import VirtioRng
from hwloop.errors import DeviceLost, InvalidParam, SetupError
from hwloop.hal.fake import FakeHal
from hwloop.hal.interrupt import Interrupt
from hwloop.session import find
from hwloop.target import Target
from hwloop.transport.fake_device import FakeDevice
from hwloop.vhost import BackEndRefused
from hwloop.vhost.fake_backend import FakeBackEnd
from tests.unit.hwloop.vhost.peer import FEATURES, SIZE, descriptors


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a socket may be: its path has 107 bytes at most."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "disk.sock"


def served(path: Path, device: FakeDevice) -> FakeBackEnd:
    back_end = FakeBackEnd(device)
    back_end.listen(path)
    return back_end


@pytest.fixture
def disk(path: Path) -> Iterator[FakeBlk]:
    before = descriptors()
    device = FakeBlk(FakeHal(), SIZE, features=FEATURES, queue_size=1024)
    with served(path, device) as back_end:
        yield device
    assert back_end.violations == []
    assert descriptors() == before


class Waiting(Interrupt):
    """The interrupt `inner`, during whose waits a device lets go of what it holds."""

    def __init__(self, inner: Interrupt | None, held: Callable[[], bool], release: Callable[[], None]) -> None:
        assert inner is not None
        self.inner, self.held, self.release = inner, held, release
        self.needs_ack = inner.needs_ack

    def wait(self, seconds: float) -> bool:
        wait_until(self.held, "the device to take the request", 30)
        self.release()
        # The release is over, so the call was sent: there is nothing to be late for.
        return self.inner.wait(seconds)

    def rearm(self) -> None:
        self.inner.rearm()

    def close(self) -> None:
        self.inner.close()


def held_by(device: FakeDevice) -> bool:
    return bool(device.queues[0].held)


def test_a_disk_is_opened_by_the_path_of_its_socket(path: Path, disk: FakeBlk) -> None:
    for _ in range(2):
        with hwloop.open(f"vhost-user:{path}") as opened:
            assert isinstance(opened, VirtioBlk)
            opened.write(1, b"1" * 512)
    assert disk.data[512:1024] == b"1" * 512


def test_with_wait_irq_the_queue_waits_for_calls(path: Path, disk: FakeBlk) -> None:
    with hwloop.open(f"vhost-user:{path}?wait=irq") as opened:
        assert isinstance(opened, VirtioBlk)
        (queue,) = opened.virtqueues
        # A completion that is there before anybody waits counts no call: so it comes when somebody does.
        disk.hold = True
        waiting = Waiting(queue.waiter.line, lambda: held_by(disk), disk.release)
        queue.use_interrupt(waiting)
        for number in range(1, 4):
            opened.read(0, 512)
            assert queue.interrupts == number


def test_the_size_of_queues_is_what_the_option_says(path: Path, disk: FakeBlk) -> None:
    with hwloop.open(f"vhost-user:{path}?queue-size=32") as opened:
        assert isinstance(opened, VirtioBlk)
        assert opened.virtqueues[0].size == 32


def test_a_size_that_the_back_end_does_not_take_is_an_error_and_not_a_hang(path: Path) -> None:
    device = FakeBlk(FakeHal(), SIZE, features=FEATURES, queue_size=16)
    with served(path, device) as back_end:
        with pytest.raises(BackEndRefused, match=r"queue 0 with 256 descriptors; .*queue-size=128"):
            hwloop.open(f"vhost-user:{path}")
        hwloop.open(f"vhost-user:{path}?queue-size=16").close()
    assert back_end.violations == []


def test_a_device_that_is_no_disk_is_named_by_the_option(path: Path) -> None:
    with served(path, FakeRng(FakeHal())), hwloop.open(f"vhost-user:{path}?device=rng&queue-size=8") as rng:
        assert isinstance(rng, VirtioRng)
        assert len(rng.read(64)) == 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("queue-size=0", "option queue-size cannot be '0'"),
        ("queue-size=32769", "give a number from 1 to 32768"),
        ("queue-size=many", "cannot be 'many'"),
        ("wait=never", "choose one of: poll, irq"),
        ("device=gpu", "choose one of: block, console, rng"),
        ("hal=vfio", "there is: device, reconnect, wait"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_opened(options: str, words: str) -> None:
    with pytest.raises(InvalidParam, match=words):
        find(f"vhost-user:/nowhere?{options}")


def test_a_target_without_a_path_is_refused() -> None:
    with pytest.raises(InvalidParam):
        Target.parse("vhost-user:")


def test_a_path_where_nothing_is_is_an_error_that_says_so(path: Path) -> None:
    with pytest.raises(
        SetupError, match=r"No such file or directory; does a vhost-user back end listen there\?"
    ) as caught:
        hwloop.open(f"vhost-user:{path}")
    assert caught.value.errno == errno.ENOENT


def test_a_socket_that_nobody_listens_at_and_a_file_are_refused_connections(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    with pytest.raises(SetupError, match="Connection refused"):
        hwloop.open(f"vhost-user:{path}")
    path.unlink()
    path.touch()
    with pytest.raises(SetupError, match="Connection refused"):
        hwloop.open(f"vhost-user:{path}")


@pytest.mark.parametrize("name", ["x" * 200, "a\0b"])
def test_a_path_that_no_socket_can_have_is_refused(name: str) -> None:
    with pytest.raises(SetupError, match="cannot connect to"):
        hwloop.open(Target("vhost-user", name))


def test_a_back_end_that_serves_another_client_is_named_with_the_way_to_find_that(
    path: Path, disk: FakeBlk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwloop.door.vhost_user.ANSWER_SECONDS", 0.1)
    with hwloop.open(f"vhost-user:{path}"), pytest.raises(SetupError, match="serves one client at a time") as caught:
        hwloop.open(f"vhost-user:{path}")
    assert caught.value.errno == errno.ETIMEDOUT
    assert f"ss -xp | grep {path}" in str(caught.value)


def test_who_is_hung_up_on_at_once_is_told_so(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        unwilling = threading.Thread(target=lambda: listener.accept()[0].close())
        unwilling.start()
        with pytest.raises(DeviceLost, match=f"the back end at {path} is gone"):
            hwloop.open(f"vhost-user:{path}")
        unwilling.join()


# --- On the command line ----------------------------------------------------------------------------------------------


def test_a_disk_is_read_from_the_command_line(
    path: Path, disk: FakeBlk, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    disk.data[:512] = bytes(range(256)) * 2
    assert run(["read", f"vhost-user:{path}", "0", "512"]) == 0
    assert capfdbinary.readouterr().out == bytes(range(256)) * 2


def test_info_shows_the_way_the_queues_and_the_configuration(
    path: Path, disk: FakeBlk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["info", f"vhost-user:{path}"]) == 0
    out = capsys.readouterr().out
    assert f"vhost-user:{path}  block" in out
    assert "reached by   vhost-user over vhost" in out
    assert "VIRTIO_F_VERSION_1" in out
    assert "0: up to 1024 descriptors" in out
    assert "capacity_bytes                 1048576" in out


def test_info_says_why_it_cannot_ask(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", f"vhost-user:{path}"]) == 6
    assert f"cannot connect to {path}: No such file or directory" in capsys.readouterr().err
