"""`hwloop queues`: both sides of a ring, explained."""

from __future__ import annotations

import json

import pytest

from hwloop.cli.main import run
from hwloop.cli.queues import lines_of
from tests.unit.hwloop.machine import DISK, Machine, NewMachine


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    return new_machine()


def test_a_request_is_seen_on_both_sides(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["queues", DISK]) == 0
    out = capfd.readouterr().out
    assert out.startswith("queue 0: split ring of 64 descriptors, ")
    for words in (
        "avail.idx          1", "used.idx           1", "that wait to be taken: 1", "the device wrote 513 bytes",
        "512 bytes  the device writes", "16 bytes  the device reads",
    ):  # fmt: skip
        assert words in out
    assert "CHANGED" not in out
    assert machine.given_back()


def test_a_request_that_the_device_holds_is_with_it(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.disk.faults.drop = True
    assert run(["queues", DISK]) == 5
    assert machine.given_back()


def test_an_idle_ring_is_empty(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["queues", DISK, "--request", "none"]) == 0
    assert "no buffer is outstanding" in capfd.readouterr().out
    assert run(["queues", DISK, "--request", "flush"]) == 0
    assert "used buffers that wait to be taken: 1" in capfd.readouterr().out


def test_json_has_the_whole_dump(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["queues", DISK, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    queue = found["queues"][0]
    assert (queue["index"], queue["format"], queue["size"]) == (0, "split", 64)
    assert queue["shared"]["used_waiting"] == [[queue["outstanding"][0]["head"], 513]]


def test_a_descriptor_that_somebody_changed_is_shown() -> None:
    chain = {
        "head": 3, "published": True, "token": None,
        "descriptors": [{"index": 3, "address": 16, "length": 8, "writable": False, "shared": [32, 8, 0, 0]}],
    }  # fmt: skip
    dump = {
        "index": 0, "format": "split", "size": 8, "free": 7, "event_idx": True, "in_order": False,
        "platform_order": False, "table_parts": 4, "used_notifications": True, "broken": "used id out of range",
        "outstanding": [chain], "added_idx": 2, "published_idx": 1, "popped_idx": 0,
        "shared": {
            "avail_flags": 0, "avail_idx": 1, "used_event": 0, "used_flags": 1, "used_idx": 0, "avail_event": 5,
            "used_waiting": [],
        },
    }  # fmt: skip
    text = "\n".join(lines_of(dump))
    for words in (
        "CHANGED in memory", "BROKEN", "event_idx, indirect tables of 4 parts", "1 more are written and not shown yet",
        "need not be notified", "the device wants a notification at this avail.idx",
    ):  # fmt: skip
        assert words in text


def test_a_packed_ring_has_wrap_counters() -> None:
    dump = {
        "index": 1, "format": "packed", "size": 8, "free": 8, "event_idx": False, "in_order": True,
        "platform_order": True, "table_parts": 0, "used_notifications": False, "broken": None, "outstanding": [],
        "next_avail": [3, 1], "next_published": [3, 1], "next_used": [2, 0],
        "shared": {
            "driver_event": [0, 1], "device_event": [0x8005, 2], "at_next_used": [4096, 512, 7, 0x8082],
            "at_next_published": [0, 0, 0, 0],
        },
    }  # fmt: skip
    text = "\n".join(lines_of(dump))
    for words in (
        "queue 1: packed ring of 8", "wrap 1", "our interrupts are disabled", "at a certain descriptor 5",
        "id 7, flags WRITE AVAIL USED",
        "nothing that waits to be taken",
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize("packed", ["off", "on"])
@pytest.mark.parametrize("indirect", ["off", "on"])
def test_a_request_is_explained_in_either_format(capfd: pytest.CaptureFixture[str], packed: str, indirect: str) -> None:
    assert run(["queues", f"fake:1M?packed={packed}&indirect={indirect}"]) == 0
    out = capfd.readouterr().out
    for words in ("16 bytes  the device reads", "512 bytes  the device writes", "      1 bytes  the device writes"):
        assert words in out
    assert out.count("a table of descriptors") == out.count("table entry") / 3 == (indirect == "on")
    assert ("buffer 0: the device wrote 513 bytes; it waits to be taken" in out) == (packed == "on")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["queues", "svirtb:none.img"], 6, "none.img"),
        (["queues", DISK, "--request", "write"], 2, "Invalid value for '--request'"),
        (["queues"], 2, "Missing argument"),
    ],
)
def test_bad_input_has_its_exit_status(
    machine: Machine, capfd: pytest.CaptureFixture[str], arguments: list[str], status: int, words: str
) -> None:
    assert run(arguments) == status
    assert words in capfd.readouterr().err
    assert machine.tree.writes == []
