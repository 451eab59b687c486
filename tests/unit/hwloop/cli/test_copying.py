"""`hwloop copy`, `compare` and `verify`, from the command line to the bytes, and how they end."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwloop.cli.main import run
from hwloop.signals import raise_interrupted
from hwloop.spec import BlkFeature
from hwloop.transport.fake_device import MODERN
from tests.unit.hwloop.machine import DISK, Machine, NewMachine

ROOT = Path(__file__).parents[4]
SIZE = 1 << 20


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    made = new_machine(SIZE)
    made.disk.data[:] = random.Random(3).randbytes(SIZE)
    return made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file as large as the disk, with zeros in it."""
    path = tmp_path / "image"
    data = random.Random(4).randbytes(SIZE)
    path.write_bytes(data[: SIZE // 4] + bytes(SIZE // 2) + data[3 * SIZE // 4 :])
    return path


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """What the command finds on a pipe at its standard input."""
    assert len(data) <= 60_000, "what a pipe holds"
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading, "r"))
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(data)


def json_of(capfd: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    capfd.readouterr()
    assert run([*arguments, "--json"]) == status
    found = json.loads(capfd.readouterr().out)
    assert isinstance(found, dict)
    return found


# --- copy -------------------------------------------------------------------------------------------------------------


def test_a_file_is_copied_to_a_disk_flushed_and_verified(
    machine: Machine, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["copy", str(image), DISK, "--verify"]) == 0
    assert machine.disk.data == machine.disk.durable == image.read_bytes()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"1048576 bytes (1 MiB) copied from {image} to {DISK}, 524288 bytes (512 KiB) of them zeros")
    assert ", verified" in err
    assert machine.given_back()


def test_a_disk_is_copied_to_a_new_file(machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    found = json_of(capfd, "copy", "vda", str(out))
    assert out.read_bytes() == machine.disk.data
    assert list(found) == [
        "schema", "source", "destination", "bytes", "data_bytes", "zero_bytes", "verified", "seconds",
    ]  # fmt: skip
    assert (found["bytes"], found["verified"]) == (SIZE, False)


def test_a_file_is_replaced_unless_a_place_in_it_is_given(machine: Machine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"x" * 100)
    assert run(["copy", DISK, str(out), "--length", "10"]) == 0
    assert out.read_bytes() == machine.disk.data[:10]
    assert run(["copy", DISK, str(out), "--dst-offset", "5", "--src-offset", "1", "--length", "3"]) == 0
    assert out.read_bytes() == machine.disk.data[:5] + machine.disk.data[1:4] + machine.disk.data[8:10]


def test_standard_input_goes_to_a_disk_and_a_disk_to_standard_output(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    before = bytes(machine.disk.data)
    feed(monkeypatch, b"A" * 1000)
    assert run(["copy", "-", DISK, "--dst-offset", "510"]) == 0
    assert machine.disk.data == before[:510] + b"A" * 1000 + before[1510:]
    capfdbinary.readouterr()
    assert run(["copy", DISK, "-", "--json"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == machine.disk.data
    assert json.loads(err)["bytes"] == SIZE


def test_progress_in_a_log_is_a_line_a_tenth(
    machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["copy", DISK, str(tmp_path / "out"), "--progress"]) == 0
    assert "copying: 100 %\n" in capfd.readouterr().err
    assert run(["copy", "/dev/zero", str(tmp_path / "out"), "--length", "3M", "--progress"]) == 0
    assert "100 %" in capfd.readouterr().err


def test_a_terminal_sees_a_bar_for_what_takes_long(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert run(["copy", "/dev/zero", str(tmp_path / "out"), "--length", "16M"]) == 0
    assert "━" in capfd.readouterr().err
    assert run(["copy", "/dev/zero", str(tmp_path / "out"), "--length", "16M", "--no-progress"]) == 0
    assert "━" not in capfd.readouterr().err


# --- copy: how it ends ------------------------------------------------------------------------------------------------


def test_ctrl_c_in_the_middle_gives_the_disk_back_and_says_how_far_it_came(
    new_machine: NewMachine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    machine = new_machine(16 << 20)
    answer = machine.disk._answer

    def interrupted(*arguments: Any) -> tuple[int, bytes]:
        if len(machine.disk.requests) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return answer(*arguments)

    machine.disk._answer = interrupted  # type: ignore[method-assign]
    before = signal.signal(signal.SIGINT, raise_interrupted)
    try:
        assert run(["copy", DISK, str(tmp_path / "out")]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("hwloop: ended by SIGINT\n  ")
    assert err.endswith(f"had been copied to {tmp_path}/out\n")
    assert machine.given_back()


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)  # fmt: skip
def test_a_signal_ends_a_copy_that_waits_for_its_input(signum: int, status: int) -> None:
    command = [sys.executable, "-m", "hwloop", "copy", "-", "fake:16M", "--progress"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(bytes(2 << 20))
        process.stdin.flush()
        assert process.stderr.readline().startswith(b"copying: ")
        process.send_signal(signum)
        assert process.wait(30) == status
        assert b"had been copied to fake:16M" in process.stderr.read()


def test_a_reader_that_has_gone_ends_a_copy_quietly() -> None:
    command = [sys.executable, "-m", "hwloop", "copy", "fake:16M", "-"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(1)) == 1
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_an_input_that_is_too_long_fills_the_disk(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = bytes(machine.disk.data)
    feed(monkeypatch, b"x" * 1024)
    assert run(["copy", "-", DISK, "--dst-offset", "1047553"]) == 2
    assert machine.disk.data == before[:1047553] + b"x" * 1023
    assert machine.disk.durable == machine.disk.data
    assert "are not on the disk" in capfd.readouterr().err
    assert machine.given_back()


def test_an_input_that_is_too_short_is_kept_and_is_an_error(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, b"x" * 1000)
    assert run(["copy", "-", DISK, "--length", "2000"]) == 2
    assert machine.disk.data[:1000] == b"x" * 1000
    assert "standard input ended after 1000 bytes" in capfd.readouterr().err


def test_a_full_destination_is_the_machines_fault(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["copy", DISK, "/dev/full"]) == 6
    assert "cannot write /dev/full: No space left on device" in capfd.readouterr().err
    assert machine.given_back()


def test_a_disk_that_forgets_is_exit_status_1(machine: Machine, image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answer = machine.disk._answer

    def forgetful(number: int, sector: int, *rest: Any) -> tuple[int, bytes]:
        found = answer(number, sector, *rest)
        if number == 1:
            machine.disk.data[7] ^= 1
        return found

    machine.disk._answer = forgetful  # type: ignore[method-assign]
    assert run(["copy", str(image), DISK, "--verify"]) == 1
    assert "does not hold what was copied" in capfd.readouterr().err
    assert machine.given_back()


# --- compare ----------------------------------------------------------------------------------------------------------


def test_equal_is_0_and_different_is_1(machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.write_bytes(machine.disk.data)
    assert run(["compare", DISK, str(other)]) == 0
    assert capfd.readouterr().out == f"{DISK} and {other} are equal: 1048576 bytes (1 MiB)\n"
    machine.disk.data[70_000] ^= 1
    assert run(["compare", DISK, str(other)]) == 1
    assert "differ from byte 70000 (0x11170, sector 136) on" in capfd.readouterr().out
    found = json_of(capfd, "compare", DISK, str(other), status=1)
    assert (found["equal"], found["first_difference"]) == (False, 70_000)


def test_a_smaller_image_on_a_larger_disk_is_equal_unless_strict(
    machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.disk.data[1000:] = bytes(SIZE - 1000)
    other = tmp_path / "other"
    other.write_bytes(machine.disk.data[:1000])
    assert json_of(capfd, "compare", str(other), DISK)["longer"] == DISK
    assert run(["compare", str(other), DISK, "--strict"]) == 1
    assert run(["compare", str(other), DISK, "--length", "500"]) == 0
    assert run(["compare", str(other), DISK, "--length", "1001"]) == 2


# --- verify -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["0xaa", "stamp", "random:7"])
def test_a_pattern_is_written_and_checked(machine: Machine, capfd: pytest.CaptureFixture[str], pattern: str) -> None:
    before = bytes(machine.disk.data)
    arguments = ["verify", DISK, "1000", "100k", "--pattern", pattern]
    assert run(arguments) == 1
    assert machine.disk.data == before, "checking writes nothing"
    assert run([*arguments, "--write"]) == 0
    out, err = capfd.readouterr()
    assert f"writing {pattern} to 102400 bytes (100 KiB) of {DISK}, from byte 1000 on" in err
    assert out.splitlines()[-1] == f"{DISK} holds {pattern} in 102400 bytes (100 KiB) from byte 1000 on"
    after = bytes(machine.disk.data)
    assert (after[:1000], after[103_400:]) == (before[:1000], before[103_400:])
    assert run(arguments) == 0
    machine.disk.data[5000] ^= 1
    found = json_of(capfd, *arguments, status=1)
    assert found["first_difference"]["offset"] == 5000


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["copy", DISK], 2, "Missing argument"),
        (["copy", DISK, DISK], 2, "are the same"),
        (["copy", "none.img", DISK], 6, "cannot read none.img: No such file or directory"),
        (["copy", "/tmp", DISK], 2, "/tmp is a folder"),
        (["copy", DISK, "/tmp"], 2, "/tmp is a folder"),
        (["copy", DISK, "/nonexistent/out"], 6, "cannot write /nonexistent/out"),
        (["copy", "fake:2M", DISK], 2, "do not fit"),
        (["copy", DISK, "out", "--length", "2M"], 2, "nothing was written"),
        (["copy", DISK, "out", "--length", "2Q"], 2, "is not a size"),
        (["copy", "fake:1x", DISK], 2, "is not a size"),
        (["copy", "/dev/null", DISK, "--length", "1"], 2, "/dev/null ended after 0 bytes"),
        (["copy", DISK, "-", "--verify"], 2, "leave --verify out"),
        (["compare", DISK, DISK], 2, "cannot be both of them"),
        (["compare", "-", "-"], 2, "- cannot be both of them"),
        (["compare", DISK, "none.img"], 6, "No such file"),
        (["verify", DISK], 2, "Missing option '--pattern'"),
        (["verify", DISK, "--pattern", "zebra"], 2, "is no pattern"),
        (["verify", DISK, "0", "2M", "--pattern", "0"], 2, "are not on the disk"),
        (["verify", DISK, "2M", "--pattern", "0"], 2, "are not on the disk"),
    ],
)
def test_bad_input_has_its_exit_status_and_changes_nothing(
    machine: Machine, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], status: int, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = bytes(machine.disk.data)
    assert run(arguments) == status
    assert words in capfdbinary.readouterr().err.decode()
    assert machine.disk.data == before
    assert machine.given_back()
    assert not (tmp_path / "out").exists()


def test_a_read_only_disk_is_not_written(
    new_machine: NewMachine, image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    machine = new_machine(SIZE, features=MODERN | BlkFeature.RO)
    for arguments in (["copy", str(image), DISK], ["verify", DISK, "--pattern", "1", "--write"]):
        assert run(arguments) == 2
        assert "read-only" in capfd.readouterr().err
    assert machine.given_back()


def test_a_mounted_disk_is_refused(machine: Machine, image: Path) -> None:
    machine.tree.add_mount("vda", "/")
    for arguments in (["copy", str(image), DISK], ["compare", DISK, str(image)], ["verify", DISK, "--pattern", "1"]):
        assert run(arguments) == 3
    assert machine.tree.writes == []


def test_an_input_without_bytes_is_copied_too(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bytes(machine.disk.data)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(open("/dev/null", "rb")))  # noqa: SIM115
    assert run(["copy", "-", DISK]) == 0
    assert machine.disk.data == before
