"""`hwloop read`, `write`, `flush` and `id`, from the command line to the bytes of the disk."""

from __future__ import annotations

import io
import json
import os
import random
import sys
from pathlib import Path

import pytest

from hwloop.cli.main import run
from tests.unit.hwloop.machine import DISK, Machine, NewMachine

SIZE = 1 << 20


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    made = new_machine(SIZE)
    made.disk.data[:] = random.Random(3).randbytes(SIZE)
    return made


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> io.BufferedWriter:
    """What is written here is what the command finds on a pipe at its standard input."""
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading, "r"))
    return os.fdopen(writing, "wb")


def feed(stdin: io.BufferedWriter, data: bytes) -> None:
    assert len(data) <= 60_000, "what a pipe holds"
    stdin.write(data)
    stdin.close()


# --- read -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "length"), [("0", "512"), ("1", "1"), ("0x200", "4k"), ("1023k", "1k"), ("5", "0")])
def test_bytes_come_out_as_they_are(
    machine: Machine, capfdbinary: pytest.CaptureFixture[bytes], offset: str, length: str
) -> None:
    from hwloop.size import parse_size

    assert run(["read", DISK, offset, length]) == 0
    start = parse_size(offset)
    assert capfdbinary.readouterr() == (bytes(machine.disk.data[start : start + parse_size(length)]), b"")
    assert machine.given_back()


def test_the_whole_disk_is_read_into_a_file(machine: Machine, tmp_path: Path) -> None:
    out = tmp_path / "disk.img"
    assert run(["read", "vda", "0", "1M", "-o", str(out)]) == 0
    assert out.read_bytes() == machine.disk.data


def test_a_hex_dump_has_the_offsets_of_the_disk(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.disk.data[0x1F0:0x210] = bytes(range(32))
    assert run(["read", DISK, "0x1f0", "32", "--hexdump"]) == 0
    assert capfd.readouterr().out == (
        "000001f0  00 01 02 03 04 05 06 07  08 09 0a 0b 0c 0d 0e 0f  |................|\n"
        "00000200  10 11 12 13 14 15 16 17  18 19 1a 1b 1c 1d 1e 1f  |................|\n"
        "00000210\n"
    )


def test_a_terminal_gets_a_hex_dump(
    machine: Machine, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(["read", DISK, "0", "16"]) == 0
    assert capfd.readouterr().out.startswith("00000000  ")


def test_a_file_gets_bytes_also_when_a_terminal_watches(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = tmp_path / "out"
    assert run(["read", DISK, "0", "16", "-o", str(out)]) == 0
    assert out.read_bytes() == machine.disk.data[:16]


@pytest.mark.parametrize(
    ("offset", "length"), [("1M", "1"), ("0", "1025k"), ("1048575", "2"), ("99999999999999999999", "1")]
)
def test_a_range_behind_the_end_is_a_usage_error_and_makes_no_file(
    machine: Machine, capfd: pytest.CaptureFixture[str], tmp_path: Path, offset: str, length: str
) -> None:
    out = tmp_path / "out"
    assert run(["read", DISK, offset, length, "-o", str(out)]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hwloop: ")
    assert f"which has {SIZE} bytes" in captured.err
    assert not out.exists()
    assert machine.given_back()


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    "arguments",
    [
        ["read", DISK],
        ["read", DISK, "0"],
        ["read", DISK, "zero", "1"],
        ["read", DISK, "0", "-1"],
        ["read", DISK, "0", "1x"],
        ["read", DISK, "0", "1", "--no-such-option"],
        ["read", "no device", "0", "1"],
        ["read", f"{DISK}?hal=none", "0", "1"],
        ["write", DISK],
        ["nonsense"],
        ["flush"],
    ],
)
def test_wrong_arguments_are_exit_status_2_and_touch_nothing(
    machine: Machine, capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err
    assert machine.tree.writes == []


# --- write ------------------------------------------------------------------------------------------------------------


def test_standard_input_is_written_and_flushed(
    machine: Machine, stdin: io.BufferedWriter, capfd: pytest.CaptureFixture[str]
) -> None:
    before = bytes(machine.disk.data)
    feed(stdin, b"A" * 1000)
    assert run(["write", DISK, "510"]) == 0
    assert machine.disk.data == before[:510] + b"A" * 1000 + before[1510:]
    assert machine.disk.durable == machine.disk.data
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == f"1000 bytes written to {DISK} at 510\n"
    assert machine.given_back()


def test_a_file_is_written(machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    source.write_bytes(bytes(SIZE))
    assert run(["write", DISK, "0", "-i", str(source)]) == 0
    assert machine.disk.data == bytes(SIZE)
    assert "1048576 bytes (1 MiB) written" in capfd.readouterr().err


@pytest.mark.fault(50)
def test_a_file_that_does_not_fit_is_refused_before_the_first_byte(machine: Machine, tmp_path: Path) -> None:
    before = bytes(machine.disk.data)
    source = tmp_path / "in"
    source.write_bytes(b"x" * 1024)
    assert run(["write", DISK, "1047553", "-i", str(source)]) == 2
    assert machine.disk.data == before


@pytest.mark.fault(50)
def test_a_pipe_that_does_not_fit_writes_what_fits_and_says_so(
    machine: Machine, stdin: io.BufferedWriter, capfd: pytest.CaptureFixture[str]
) -> None:
    feed(stdin, b"x" * 1024)
    assert run(["write", DISK, "1047553"]) == 2
    assert "are not on the disk" in capfd.readouterr().err
    assert machine.given_back()


def test_an_empty_input_writes_nothing(
    machine: Machine, stdin: io.BufferedWriter, capfd: pytest.CaptureFixture[str]
) -> None:
    before = bytes(machine.disk.data)
    feed(stdin, b"")
    assert run(["write", DISK, "5"]) == 0
    assert machine.disk.data == before
    assert "0 bytes written" in capfd.readouterr().err


def test_the_flush_can_be_left_out(machine: Machine, stdin: io.BufferedWriter) -> None:
    feed(stdin, b"x" * 512)
    assert run(["write", DISK, "0", "--no-flush"]) == 0
    assert machine.disk.durable != machine.disk.data


def test_a_missing_input_file_is_named_and_the_disk_is_not_taken(
    machine: Machine, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["write", DISK, "0", "-i", str(tmp_path / "none")]) == 6
    assert capfd.readouterr().err == f"hwloop: {tmp_path}/none: No such file or directory\n"
    assert machine.tree.writes == []


def test_a_read_only_disk_is_not_written(
    new_machine: NewMachine, stdin: io.BufferedWriter, capfd: pytest.CaptureFixture[str]
) -> None:
    from hwloop.spec import BlkFeature
    from hwloop.transport.fake_device import MODERN

    machine = new_machine(SIZE, features=MODERN | BlkFeature.RO)
    feed(stdin, b"x" * 512)
    assert run(["write", DISK, "0"]) == 2
    assert "read-only" in capfd.readouterr().err
    assert machine.given_back()


# --- flush and id -----------------------------------------------------------------------------------------------------


def test_flush_makes_durable_what_was_written(machine: Machine) -> None:
    assert machine.disk.durable != machine.disk.data
    assert run(["flush", DISK]) == 0
    assert machine.disk.durable == machine.disk.data
    assert machine.given_back()


def test_the_serial_is_printed(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["id", "vda"]) == 0
    assert capfd.readouterr().out == "FAKE0\n"


def test_the_serial_as_json_has_a_schema(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["id", DISK, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"schema": 1, "target": DISK, "id": "FAKE0"}
