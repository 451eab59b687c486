"""`hwloop zero`, `discard`, `secure-erase`, `cache`, `lifetime` and `zones`, from the command line to the device."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from hwloop.cli.main import run
from hwloop.device.blk_protocol import RequestType
from hwloop.spec import BlkFeature
from hwloop.transport.fake_device import MODERN
from tests.unit.hwloop.machine import DISK, Machine, NewMachine

SIZE = 1 << 20
EVERYTHING = (
    MODERN | BlkFeature.FLUSH | BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX | BlkFeature.WRITE_ZEROES | BlkFeature.DISCARD
    | BlkFeature.SECURE_ERASE | BlkFeature.CONFIG_WCE | BlkFeature.LIFETIME
)  # fmt: skip
ZONED = "fake:1M?zoned=host-managed&zone-size=256k&conventional-zones=1"


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    made = new_machine(SIZE, features=EVERYTHING)
    made.disk.data[:] = random.Random(3).randbytes(SIZE)
    return made


@pytest.fixture
def plain(new_machine: NewMachine) -> Machine:
    made = new_machine(SIZE)
    made.disk.data[:] = random.Random(3).randbytes(SIZE)
    return made


def json_of(capfd: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    capfd.readouterr()
    assert run([*arguments, "--json"]) == status
    found = json.loads(capfd.readouterr().out)
    assert isinstance(found, dict)
    return found


# --- zero -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "length"), [("0", "1M"), ("4k", "64k"), ("1", "1"), ("700", "5000"), ("0", "0")])
def test_a_range_becomes_zeros_and_durable(
    machine: Machine, capfd: pytest.CaptureFixture[str], offset: str, length: str
) -> None:
    from hwloop.size import parse_size

    model = bytearray(machine.disk.data)
    start, count = parse_size(offset), parse_size(length)
    model[start : start + count] = bytes(count)
    assert run(["zero", DISK, offset, length]) == 0
    assert machine.disk.data == model
    assert machine.disk.durable == model
    assert f"of {DISK}, from byte {start} on" in capfd.readouterr().err
    assert machine.given_back()


def test_the_disk_zeroes_by_itself_where_it_can(machine: Machine) -> None:
    assert run(["zero", DISK, "--all"]) == 0
    assert RequestType.WRITE_ZEROES in machine.disk.requests
    assert RequestType.OUT not in machine.disk.requests
    machine.disk.requests.clear()
    assert run(["zero", DISK, "--all", "--write"]) == 0
    assert RequestType.WRITE_ZEROES not in machine.disk.requests


def test_a_disk_that_cannot_is_written_with_zeros(plain: Machine) -> None:
    assert run(["zero", DISK, "100", "10k"]) == 0
    assert plain.disk.data[100 : 100 + 10240] == bytes(10240)
    assert plain.given_back()


def test_a_copy_gives_the_zeros_to_the_disk(machine: Machine, tmp_path: Any) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"x" * 65536 + bytes(SIZE - 65536))
    assert run(["copy", str(source), DISK, "--verify"]) == 0
    assert machine.disk.data == source.read_bytes()
    assert RequestType.WRITE_ZEROES in machine.disk.requests
    assert machine.disk.requests.count(RequestType.OUT) == 1


# --- discard and secure-erase -----------------------------------------------------------------------------------------


def test_a_range_is_given_up(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["discard", DISK, "4k", "64k", "--yes-destroy-data"]) == 0
    assert machine.disk.requests == [RequestType.DISCARD]
    assert json_of(capfd, "discard", DISK, "--all") == {
        "schema": 1, "target": DISK, "action": "discarded", "offset": 0, "length": SIZE,
    }  # fmt: skip


def test_erasing_for_ever_needs_a_promise_and_opens_nothing_without(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["secure-erase", DISK, "0", "4k"]) == 3
    assert "4096 bytes from byte 0 on; nothing was opened; say --yes-destroy-data" in capfd.readouterr().err
    assert machine.tree.writes == []
    assert run(["secure-erase", DISK, "--all", "--yes-destroy-data"]) == 0
    assert machine.disk.requests == [RequestType.SECURE_ERASE]


# --- cache and lifetime -----------------------------------------------------------------------------------------------


def test_the_cache_is_shown_and_switched(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", DISK, "writethrough"]) == 0
    assert capfd.readouterr().out == "writethrough\n"
    assert json_of(capfd, "cache", DISK, "writeback") == {
        "schema": 1, "target": DISK, "cache": "writeback", "switchable": True,
    }  # fmt: skip


def test_a_cache_that_cannot_be_switched_says_so(plain: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", DISK]) == 0
    assert capfd.readouterr().out == "writeback (it cannot be switched)\n"
    assert run(["cache", DISK, "writethrough"]) == 2
    assert "CONFIG_WCE" in capfd.readouterr().err


def test_the_lifetime_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["lifetime", "fake:1M?lifetime=2,1,11"]) == 0
    assert capfd.readouterr().out == (
        "80% of the reserved blocks are used up; SLC 0 to 10% used, MLC past its end\n"
    )  # fmt: skip
    assert json_of(capfd, "lifetime", "fake:1M?lifetime=2,1,11")["pre_eol"] == "warning"


# --- zones ------------------------------------------------------------------------------------------------------------


def test_zones_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["zones", ZONED]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[1].split() == ["0x0", "256", "KiB", "256", "KiB", "-", "conventional", "not", "wp"]
    assert lines[2].endswith("sequential required  empty")
    assert len(json_of(capfd, "zones", ZONED, "--offset", "300k", "--count", "2")["zones"]) == 2


def test_zones_are_opened_closed_finished_and_emptied(capfd: pytest.CaptureFixture[str]) -> None:
    states = {"--open": "explicitly_open", "--reset": "empty"}
    for action, state in states.items():
        zones = json_of(capfd, "zones", ZONED, action, "256k")["zones"]
        assert zones[1]["state"] == state
    assert run(["zones", ZONED, "--reset-all"]) == 0
    assert "emptying all zones" in capfd.readouterr().err


# --- Bad input --------------------------------------------------------------------------------------------------------

RANGED = ("zero", "discard", "secure-erase")


@pytest.mark.parametrize("verb", RANGED)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what: OFFSET and LENGTH, or --all"),
        (["0"], "say what"),
        (["0", "1k", "--all"], "--all is the whole disk"),
        (["0", "2M"], "are not on the disk"),
        (["2M", "512"], "are not on the disk"),
        (["-1", "1"], "No such option"),
        (["x", "1"], "is not a size"),
    ],
)
def test_bad_ranges_are_exit_status_2_and_change_nothing(
    machine: Machine, capfd: pytest.CaptureFixture[str], verb: str, arguments: list[str], words: str
) -> None:
    before = bytes(machine.disk.data)
    promise = ["--yes-destroy-data"] if verb == "secure-erase" else []
    assert run([verb, DISK, *arguments, *promise]) == 2
    assert words in capfd.readouterr().err
    assert machine.disk.data == before
    assert machine.given_back()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["discard", DISK, "1", "512"], "not whole blocks"),
        (["cache", DISK, "on"], "Invalid value"),
        (["zones", DISK], "has no zones"),
        (["zones", ZONED, "--open", "1"], "no zone begins at 1"),
        (["zones", ZONED, "--offset", "2M"], "is not on the disk"),
        (["zones", ZONED, "--open", "0", "--close", "0"], "one thing at a time"),
        (["lifetime", "fake:1M"], "VIRTIO_BLK_F_LIFETIME"),
        (["discard", "fake:1M", "--all"], "does not offer VIRTIO_BLK_F_DISCARD; hwloop zero works"),
        (["secure-erase", "fake:1M", "--all", "--yes-destroy-data"], "does not offer VIRTIO_BLK_F_SECURE_ERASE"),
    ],
)
def test_what_a_disk_cannot_do_is_exit_status_2(
    machine: Machine, capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(arguments) == 2
    err = capfd.readouterr().err
    assert words in err
    assert f"of {arguments[1]}, from byte" not in err, "nothing is announced that is not done"
    assert machine.given_back()


@pytest.mark.parametrize("verb", RANGED)
def test_a_read_only_disk_and_one_in_use_are_left_alone(
    new_machine: NewMachine, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    machine = new_machine(SIZE, features=EVERYTHING | BlkFeature.RO)
    arguments = [verb, DISK, "--all", *(["--yes-destroy-data"] if verb == "secure-erase" else [])]
    assert run(arguments) == 2
    assert "read-only" in capfd.readouterr().err
    machine.tree.add_mount("vda", "/")
    assert run(arguments) == 3
    assert machine.given_back()


def test_an_error_of_the_device_is_exit_status_4(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.disk.blk_faults.io_error = 1
    assert run(["discard", DISK, "--all", "--yes-destroy-data"]) == 4
    assert "it is not known which parts of the ranges were done" in capfd.readouterr().err
    assert machine.given_back()
