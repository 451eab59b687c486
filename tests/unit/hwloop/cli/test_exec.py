"""`hwloop exec`: qemu-io's language, from the line to the bytes."""

from __future__ import annotations

import io
import json
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwloop.cli.main import run
from hwloop.device.blk_protocol import RequestType
from hwloop.errors import InvalidParam
from hwloop.script.language import FORMS, parse
from hwloop.spec import BlkFeature
from hwloop.transport.fake_device import MODERN
from tests.unit.hwloop.machine import DISK, Machine, NewMachine

SIZE = 1 << 20


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    made = new_machine(SIZE)
    made.disk.data[:] = random.Random(3).randbytes(SIZE)
    return made


def execute(*lines: str) -> int:
    return run(["exec", DISK, *(word for line in lines for word in ("-c", line))])


# --- The language -----------------------------------------------------------------------------------------------------


def test_a_line_is_taken_apart() -> None:
    command = parse("read -vP 0xaa -s4k -l 512 1M 8k  # and a comment")
    assert command is not None
    assert command.name == "read"
    assert dict(command.options) == {"v": "", "P": "0xaa", "s": "4k", "l": "512"}
    assert (command.size(0), command.size(1), command.pattern()) == (1 << 20, 8192, 0xAA)


@pytest.mark.parametrize("line", ["", "   ", "# a comment"])
def test_nothing_is_nothing(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rread 0 1", "there is no command 'rread'"),
        ("read 0", "read has 1 arguments; usage: read"),
        ("read -x 0 1", "read has no option -x"),
        ("read 0 1 2", "read has 3 arguments"),
        ("read -P", "-P of read has no value"),
        ("flush 1", "flush has 1 arguments; usage: flush"),
        ("read '0 1", "no closing quotation"),
    ],
)
def test_what_is_no_command_says_so_with_the_usage(line: str, words: str) -> None:
    with pytest.raises(InvalidParam, match=words):
        parse(line)


@given(st.text(max_size=40))
def test_any_line_is_a_command_or_a_typed_error(line: str) -> None:
    try:
        command = parse(line)
    except InvalidParam:
        return
    assert command is None or command.name in FORMS


# --- On a disk --------------------------------------------------------------------------------------------------------


def test_what_is_written_is_found_again(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    before = bytes(machine.disk.data)
    assert execute("write -P 0xaa 100 4k", "flush", "read -P 0xaa 100 4k", "write 8k 512", "read -q 8k 512") == 0
    model = bytearray(before)
    model[100:4196] = b"\xaa" * 4096
    model[8192:8704] = b"\xcd" * 512
    assert machine.disk.data == model
    assert capfd.readouterr().out == (
        "wrote 4096/4096 bytes at offset 100\nread 4096/4096 bytes at offset 100\nwrote 512/512 bytes at offset 8192\n"
    )
    assert machine.given_back()


def test_a_pattern_that_is_not_there_is_exit_status_1_and_ends_it(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.disk.data[:4096] = b"\xaa" * 4096
    machine.disk.data[3000] = 7
    assert execute("read -P 0xaa 0 4k", "write -P 1 0 4k") == 1
    err = capfd.readouterr().err
    assert "pattern verification failed at offset 3000: it holds 0x07, not 0xaa" in err
    assert "in the command: read -P 0xaa 0 4k" in err
    assert RequestType.OUT not in machine.disk.requests
    assert execute("read -P 0xaa -l 3000 0 4k", "read -P 0xaa -s 3001 0 4k") == 0


def test_bytes_are_shown(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.disk.data[512:544] = bytes(range(32))
    assert execute("read -v 512 32") == 0
    assert capfd.readouterr().out.startswith("00000200  00 01 02 03")


def test_aio_commands_are_in_flight_together_and_checked_at_the_end(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.disk.data[8192:12288] = b"\x11" * 4096
    assert execute("aio_write -P 5 0 4k", "aio_read -P 0x11 8k 4k", "aio_flush", "aio_read 0 512") == 0
    assert machine.disk.data[:4096] == b"\x05" * 4096
    assert capfd.readouterr().out.splitlines() == [
        "wrote 4096/4096 bytes at offset 0", "read 4096/4096 bytes at offset 8192", "read 512/512 bytes at offset 0",
    ]  # fmt: skip
    assert execute("aio_read -P 0x12 8k 4k", "aio_write 0 512", "aio_flush") == 1
    assert machine.given_back()


def test_a_flushing_write_is_durable(machine: Machine) -> None:
    assert execute("write -f -P 9 0 512") == 0
    assert machine.disk.durable[:512] == b"\x09" * 512


def test_zeros_and_discards_are_the_disks_own(new_machine: NewMachine, capfd: pytest.CaptureFixture[str]) -> None:
    machine = new_machine(SIZE, features=MODERN | BlkFeature.WRITE_ZEROES | BlkFeature.DISCARD)
    machine.disk.data[:] = b"x" * SIZE
    assert execute("write -z 0 4k", "write -zu 8k 4k", "discard 16k 4k") == 0
    assert machine.disk.data[:4096] == machine.disk.data[8192:12288] == bytes(4096)
    assert machine.disk.requests[-3:] == [RequestType.WRITE_ZEROES, RequestType.WRITE_ZEROES, RequestType.DISCARD]
    assert set(machine.disk.requests[:-3]) == {RequestType.IN}


@pytest.mark.parametrize(("line", "words"), [("write -z 0 512", "WRITE_ZEROES"), ("discard 0 512", "DISCARD")])
def test_a_disk_that_cannot_says_so(machine: Machine, capfd: pytest.CaptureFixture[str], line: str, words: str) -> None:
    assert execute(line) == 2
    assert words in capfd.readouterr().err
    assert machine.given_back()


def test_a_script_comes_from_standard_input(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("# first\nw -P 3 0 1k\nnonsense\n"))
    assert run(["exec", DISK]) == 2
    assert "there is no command 'nonsense'" in capfd.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("# first\nwrite -P 3 0 1k\n\nlength\nsleep 1\nq\nwrite -P 4 0 1k"))
    assert run(["exec", DISK]) == 0
    assert machine.disk.data[:1024] == b"\x03" * 1024
    assert capfd.readouterr().out == "wrote 1024/1024 bytes at offset 0\n1 MiB\n"


def test_json_lists_what_each_command_did(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["exec", DISK, "-c", "read 0 512", "-c", "length", "-c", "info", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["commands"][0] == {"command": "read 0 512", "result": {"offset": 0, "bytes": 512}}
    assert found["commands"][1]["result"] == {"bytes": SIZE}
    assert "VIRTIO_F_VERSION_1" in found["commands"][2]["result"]["features"]


def test_help_and_info_are_for_people(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert execute("help", "help read", "info") == 0
    out = capfd.readouterr().out
    assert out.count("read [-qv]") == 3, "aio_read has the same usage"
    assert "size: 1048576 bytes in blocks of 512" in out


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["read 0 2M"], "are not on the disk"),
        (["read 1M 1"], "are not on the disk"),
        (["write 0 99999999999999999999"], "are not on the disk"),
        (["write -P 256 0 1"], "'256' is no pattern"),
        (["write -P x 0 1"], "'x' is no pattern"),
        (["read 0 4Q"], "'4Q' is not a size"),
        (["aio_read 1 512"], "must be whole sectors"),
        (["aio_read 0 100"], "100 bytes is not one or more blocks"),
        (["write -z -P 1 0 512"], "-z and -P"),
        (["sleep 99999999"], "longer than an hour"),
        (["nonsense"], "there is no command 'nonsense'"),
    ],
)
def test_bad_commands_are_exit_status_2_and_change_nothing(
    machine: Machine, capfd: pytest.CaptureFixture[str], lines: list[str], words: str
) -> None:
    before = bytes(machine.disk.data)
    assert execute(*lines) == 2
    assert words in capfd.readouterr().err
    assert machine.disk.data == before
    assert machine.given_back()


def test_a_wrong_command_is_found_before_the_disk_is_taken(machine: Machine) -> None:
    assert execute("write -P 1 0 512", "nonsense") == 2
    assert machine.tree.writes == []
