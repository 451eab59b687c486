"""What cannot be opened, and the words with which that is said."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

import hwloop
from hwloop.cli.main import run
from hwloop.door.qemu import QemuPlace
from hwloop.errors import InvalidParam, RefusedError, SetupError, Unsupported
from hwloop.qtest import process
from hwloop.qtest.machine import MACHINES
from hwloop.qtest.qemu import QemuMachine
from hwloop.target import Target


def refusal(target: str) -> hwloop.HwloopError:
    with pytest.raises(hwloop.HwloopError) as caught:
        hwloop.open(target)
    return caught.value


def test_a_missing_image_is_named_with_the_command_that_makes_one(tmp_path: Path) -> None:
    error = refusal(f"qemu:{tmp_path}/disk.img")
    assert isinstance(error, SetupError)
    assert (error.errno, error.remedy) == (errno.ENOENT, f"make one: truncate -s 16M {tmp_path}/disk.img")


def test_what_is_no_file_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        for name, word in (("", "a directory"), ("pipe", "a pipe"), ("socket", "a socket")):
            assert f"is {word}, not a disk image" in str(refusal(f"qemu:{tmp_path}/{name}"))
    assert "is a device of the kernel, not a disk image" in str(refusal("qemu:/dev/null"))


@pytest.mark.parametrize("size", [0, 1, 511, 513, 1000])
def test_an_image_that_is_not_whole_sectors_is_refused_with_the_size_it_could_have(tmp_path: Path, size: int) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(size))
    error = refusal(f"qemu:{image}")
    assert f"has {size} bytes, which is no disk" in str(error)
    assert f"truncate -s {max(512, -(-size // 512) * 512)} " in error.remedy
    assert image.stat().st_size == size


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything; test_command.py runs as another user")
def test_an_image_that_may_not_be_written_can_be_opened_read_only(image: Path) -> None:
    image.chmod(0o400)
    error = refusal(f"qemu:{image}")
    assert (error.errno, error.remedy) == (errno.EACCES, "make it writable, or add read-only=on")
    with hwloop.open(f"qemu:{image}?read-only=on") as disk:
        assert isinstance(disk, hwloop.VirtioBlk)
        assert disk.readonly()


def test_an_image_in_use_is_refused_with_the_words_of_qemu_and_its_own_exit_status(image: Path) -> None:
    with hwloop.open(f"qemu:{image}"):
        error = refusal(f"qemu:{image}")
        assert isinstance(error, RefusedError)
        assert "Failed to get" in str(error)
        assert run(["id", f"qemu:{image}"]) == 3
    hwloop.open(f"qemu:{image}").close()


def test_an_image_of_another_format_is_not_guessed_at(image: Path) -> None:
    error = refusal(f"qemu:{image}?format=qcow2")
    assert "Image is not in qcow2 format" in str(error)


def make_qcow2(image: Path, size: int) -> None:
    with QemuMachine(MACHINES["q35"], []) as machine:
        create(machine, {"driver": "file", "filename": str(image), "size": 0})
        machine.qmp.execute("blockdev-add", {"node-name": "file"}, driver="file", filename=str(image))
        create(machine, {"driver": "qcow2", "file": "file", "size": size})


def create(machine: QemuMachine, options: dict[str, object]) -> None:
    machine.qmp.execute("blockdev-create", {"job-id": "create"}, options=options)
    while machine.qmp.wait_event("JOB_STATUS_CHANGE")["data"]["status"] != "concluded":
        pass
    [job] = machine.qmp.execute("query-jobs")
    assert "error" not in job
    machine.qmp.execute("job-dismiss", id="create")


def test_an_image_in_qcow2_is_a_disk_when_that_is_said(tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    make_qcow2(image, 1 << 20)
    with hwloop.open(f"qemu:{image}?format=qcow2") as disk:
        assert isinstance(disk, hwloop.VirtioBlk)
        assert disk.capacity() == 2048
        disk.write(7, b"7" * 512)
    assert image.stat().st_size < 1 << 20
    with hwloop.open(f"qemu:{image}?format=qcow2") as disk:
        assert isinstance(disk, hwloop.VirtioBlk)
        assert disk.read(7, 512) == b"7" * 512


def test_an_argument_that_qemu_does_not_know_is_told_in_its_words(image: Path) -> None:
    place = QemuPlace(Target("qemu", str(image)))
    with pytest.raises(SetupError, match="ended with status 1: -device nonsense: 'nonsense' is not a valid device"):
        place.open_machine(["-device", "nonsense"])
    with pytest.raises(SetupError, match="invalid option"):
        place.open_machine(["-nonsense"])


def test_a_qemu_that_is_not_installed_is_named_with_its_package(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for machine, package in (("q35", "qemu-system-x86"), ("virt", "qemu-system-arm")):
        error = refusal(f"qemu:{image}?machine={machine}")
        assert "is not installed" in error.problem
        assert error.remedy == f"install it: apt install {package}"


def test_a_qemu_that_does_not_answer_is_no_reason_to_wait_for_ever(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text("#!/bin/sh\necho still thinking >&2\nexec sleep 100\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("hwloop.qtest.qemu.START_SECONDS", 0.1)
    with pytest.raises(SetupError, match="timed out"):
        QemuMachine(MACHINES["q35"], [], answer_seconds=0.2)


def test_a_machine_without_a_device_has_nothing_to_open(image: Path) -> None:
    for name in MACHINES:
        place = QemuPlace(Target("qemu", str(image), {"machine": name}))
        with QemuMachine(MACHINES[name], []) as machine, pytest.raises(Unsupported, match="virtio"):
            place.reach(machine)


def test_a_shell_that_is_missing_is_an_error_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_SHELL", "/nonexistent/sh")
    with pytest.raises(SetupError, match="cannot start /nonexistent/sh"):
        QemuMachine(MACHINES["q35"], [])


@pytest.mark.parametrize("name", ["a b.img", "a,b=c.img", "%s.img", "-x.img", "ü.img", "a?b.img", "'\".img"])
def test_an_image_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"N" * 1024)
    with hwloop.open(f"qemu:{name}") as disk:
        assert isinstance(disk, hwloop.VirtioBlk)
        assert disk.read(1, 512) == b"N" * 512


def test_a_serial_may_have_any_characters(image: Path) -> None:
    with hwloop.open(Target("qemu", str(image), {"serial": "a,b=c ü"})) as disk:
        assert isinstance(disk, hwloop.VirtioBlk)
        assert disk.device_id() == "a,b=c \\xc3\\xbc"


def test_options_that_do_not_go_together_start_nothing(image: Path) -> None:
    for options in ("machine=virt&legacy=on", "mmio-version=1", "queue-size=5"):
        assert isinstance(refusal(f"qemu:{image}?{options}"), InvalidParam)
