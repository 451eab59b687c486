"""`hwloop features`, `caps` and `regs`: what they say of a device, as text and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hwloop.cli.main import run
from hwloop.spec import BlkFeature, Feature
from hwloop.transport.fake_device import MODERN
from tests.unit.hwloop.machine import DISK, Machine, NewMachine


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    return new_machine()


def json_of(capfd: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    capfd.readouterr()
    assert run([*arguments, "--json"]) == status
    found = json.loads(capfd.readouterr().out)
    assert isinstance(found, dict)
    return found


# --- features ---------------------------------------------------------------------------------------------------------


def test_a_number_is_explained_bit_by_bit(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["features", "0x100000220"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["5", "VIRTIO_BLK_F_RO"], ["9", "VIRTIO_BLK_F_FLUSH"], ["32", "VIRTIO_F_VERSION_1"],
    ]  # fmt: skip
    assert lines[2].endswith("has a cache that can be flushed")


def test_the_type_of_device_decides_what_a_bit_means(capfd: pytest.CaptureFixture[str]) -> None:
    found = json_of(capfd, "features", "34", "--type", "network")
    assert [entry["name"] for entry in found["bits"]] == ["VIRTIO_NET_F_GUEST_CSUM", "VIRTIO_NET_F_MAC"]
    assert found["type"] == "network"


def test_a_device_is_asked_and_given_back(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    found = json_of(capfd, "features", DISK)
    assert int(found["features"], 16) == machine.disk.features
    assert machine.given_back()


def test_two_that_differ_are_exit_status_1(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    other = machine.disk.features & ~BlkFeature.FLUSH | BlkFeature.RO
    found = json_of(capfd, "features", DISK, hex(other), status=1)
    assert [entry["name"] for entry in found["only_first"]] == ["VIRTIO_BLK_F_FLUSH"]
    assert [entry["name"] for entry in found["only_second"]] == ["VIRTIO_BLK_F_RO"]
    assert run(["features", DISK, hex(other)]) == 1
    out = capfd.readouterr().out
    assert f"only {DISK}:\n   9  VIRTIO_BLK_F_FLUSH: has a cache" in out
    assert "\nboth: " in out


def test_two_that_are_the_same_are_exit_status_0(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["features", DISK, hex(machine.disk.features)]) == 0
    assert "have the same" in capfd.readouterr().out


def test_every_feature_of_a_disk_has_a_meaning() -> None:
    from hwloop.feature_text import meaning_of
    from hwloop.spec import DeviceType

    for flag in (*BlkFeature, *Feature):
        assert meaning_of(int(flag).bit_length() - 1, DeviceType.Block), flag
    assert meaning_of(63, DeviceType.Block) == meaning_of(0, None) == ""


# --- caps -------------------------------------------------------------------------------------------------------------


def test_capabilities_are_read_from_sysfs_and_nobody_is_disturbed(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.tree.add_mount("vda", "/")
    assert run(["caps", "vda", "--hexdump"]) == 0
    out = capfd.readouterr().out
    for words in ("1af4:1042 revision 00", "BAR 4  memory", "Vendor Specific: COMMON_CFG in BAR 4", "00000000  f4 1a"):
        assert words in out
    assert machine.tree.writes == []
    found = json_of(capfd, "caps", DISK)
    assert (found["vendor_id"], found["device_id"], found["fault"]) == ("1af4", "1042", None)
    assert found["config"].startswith("f41a4210")


# --- regs -------------------------------------------------------------------------------------------------------------


def test_registers_have_names_values_and_meanings(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["regs", DISK]) == 0
    out = capfd.readouterr().out
    assert "device_status" in out
    assert "not read: reading it clears it" in out
    assert machine.disk.driver_features == 0, "the device was not initialised"
    assert machine.disk.status_writes == []
    assert machine.given_back()


def test_live_registers_are_those_of_a_device_at_work(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    found = json_of(capfd, "regs", DISK, "--live")
    values = {(entry["group"], entry["name"]): entry for entry in found["registers"]}
    assert "DRIVER_OK" in values["device", "device_status"]["meaning"]
    assert "FLUSH" in values["device", "driver_feature[0]"]["meaning"]
    assert values["queue 0", "queue_enable"]["value"] == 1
    assert values["queue 0", "queue_desc"]["value"] > 0
    assert machine.given_back()


def test_a_transport_without_registers_shows_what_can_be_asked(capfd: pytest.CaptureFixture[str]) -> None:
    found = json_of(capfd, "regs", "fake:1M?queue-size=16", "--live")
    values = {(entry["group"], entry["name"]): entry["value"] for entry in found["registers"]}
    assert values["queue 0", "max_size"] == 16
    assert values["queue 0", "enabled"] == 1
    assert values["device", "driver_features"] & Feature.VERSION_1


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["features"], 2, "Missing argument"),
        (["features", "0xg"], 2, "is not a number"),
        (["features", "1", "--type", "toaster"], 2, "Invalid value for '--type'"),
        (["features", "nosuch:1"], 2, "names no device"),
        (["features", "1", "2", "3"], 2, "unexpected extra argument"),
        (["caps", "fake:1M"], 2, "is no PCI function: it is reached by fake"),
        (["caps", "0000:00:1f.7"], 6, "0000:00:1f.7: not on this machine"),
        (["regs", "svirtb:none.img"], 2, "has no transport"),
        (["regs", "fake:1M?queue-size=x"], 2, "queue-size cannot be 'x'"),
    ],
)
def test_bad_input_has_its_exit_status(
    machine: Machine, capfd: pytest.CaptureFixture[str], arguments: list[str], status: int, words: str
) -> None:
    assert run(arguments) == status
    assert words in capfd.readouterr().err
    assert machine.given_back()


def test_a_disk_in_use_is_refused(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.tree.add_mount("vda", "/")
    for arguments in (["regs", DISK], ["features", DISK]):
        assert run(arguments) == 3
        assert "in use" in capfd.readouterr().err
    assert machine.tree.writes == []


def test_a_read_only_disk_can_be_looked_at(new_machine: NewMachine) -> None:
    new_machine(features=MODERN | BlkFeature.RO)
    assert run(["regs", DISK, "--live"]) == 0
