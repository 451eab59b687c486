"""`hwloop list` and `hwloop info`: what they show, and their JSON, whose schema is stable."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hwloop.cli.main import run
from hwloop.lock import DeviceLock
from hwloop.spec import BlkFeature
from hwloop.transport.fake_device import MODERN
from tests.unit.hwloop.machine import DISK, Machine, NewMachine

Output = pytest.CaptureFixture[str]


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    return new_machine(features=MODERN | BlkFeature.FLUSH | BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX)


def as_json(capfd: Output, *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == 0
    content: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert next(iter(content)) == "schema"
    assert content["schema"] == 1
    return content


# --- list -------------------------------------------------------------------------------------------------------------

LISTED = {
    "address": DISK,
    "type": "block",
    "vendor_id": "1af4",
    "device_id": "1042",
    "subsystem_vendor_id": "1af4",
    "subsystem_id": "1042",
    "transitional": False,
    "driver": "virtio-pci",
    "driver_override": None,
    "iommu_group": 7,
    "block_devices": ["vda"],
    "in_use_by": [],
    "locked_by": None,
    "can_take": True,
    "why_not": None,
}


def test_the_list_as_json_has_this_schema(machine: Machine, capfd: Output) -> None:
    assert as_json(capfd, "list") == {"schema": 1, "devices": [LISTED], "mmio": []}
    assert machine.tree.writes == []


def test_the_list_is_a_table(machine: Machine, capfd: Output) -> None:
    assert run(["list"]) == 0
    header, row = capfd.readouterr().out.splitlines()
    assert header.split() == ["ADDRESS", "TYPE", "ID", "DRIVER", "GROUP", "DISK", "CAN", "TAKE"]
    assert row.split() == [DISK, "block", "1af4:1042", "virtio-pci", "7", "vda", "yes"]
    assert header.index("DISK") == row.index("vda")


def test_only_virtio_functions_are_listed_and_unknown_ones_too(machine: Machine, capfd: Output) -> None:
    machine.tree.add_pci("0000:00:06.0", 0x8086, 0x100E, driver="e1000")
    machine.tree.add_pci("0000:00:07.0", 0x1AF4, 0x1001, driver="virtio-pci", block="vdb")
    machine.tree.add_pci("0000:00:08.0", 0x1AF4, 0x107F)
    machine.tree.add_pci("0000:00:09.0", 0x1AF4, 0x1110)
    devices = as_json(capfd, "list")["devices"]
    assert [(device["address"], device["type"], device["transitional"]) for device in devices] == [
        (DISK, "block", False),
        ("0000:00:07.0", "block", True),
        ("0000:00:08.0", "unknown (0x107f)", False),
    ]
    assert devices[1]["can_take"] is True, "without an IOMMU group, through UIO"
    assert run(["list"]) == 0
    assert "virtio-pci  -      vdb   yes" in capfd.readouterr().out


def test_a_disk_in_use_is_listed_with_the_reason(machine: Machine, capfd: Output) -> None:
    machine.tree.add_mount("vda", "/mnt/a b")
    (device,) = as_json(capfd, "list")["devices"]
    assert (device["can_take"], device["in_use_by"]) == (False, ["mount@vda:/mnt/a b"])
    assert device["why_not"] == "in use: mount@vda:/mnt/a b"


def test_a_device_of_another_hwloop_is_listed_with_its_process(
    machine: Machine, capfd: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwloop import inventory, lock

    monkeypatch.setattr(inventory, "lock_holder", lambda address: lock.lock_holder(address, machine.run_dir))
    with DeviceLock(DISK, machine.run_dir):
        (device,) = as_json(capfd, "list")["devices"]
    assert "another hwloop" in device["why_not"]
    assert isinstance(device["locked_by"], int)


def test_a_machine_without_virtio_says_so_and_is_no_error(machine: Machine, capfd: Output) -> None:
    machine.tree.remove_pci(DISK)
    assert run(["list"]) == 0
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "There is no virtio device on this machine" in captured.err
    assert as_json(capfd, "list") == {"schema": 1, "devices": [], "mmio": []}


def test_nodes_of_registers_are_listed_with_the_target_that_takes_them(machine: Machine, capfd: Output) -> None:
    machine.tree.add_driver("virtio-mmio", bus="platform")
    machine.tree.add_mmio("a003e00.virtio_mmio", address=0xA003E00, driver="virtio-mmio", block="vdb")
    machine.tree.add_mmio("a003c00.virtio_mmio", address=0xA003C00)
    machine.tree.add_mmio("a003a00.virtio_mmio", address=0xA003A00)
    assert [node["address"] for node in as_json(capfd, "list")["mmio"]] == ["0xa003a00", "0xa003c00", "0xa003e00"]
    assert run(["list"]) == 0
    *_, blank, header, row, rest = capfd.readouterr().out.splitlines()
    assert blank == ""
    assert header.split() == ["TARGET", "TYPE", "NODE", "DRIVER", "IRQ", "DISK", "CAN", "TAKE"]
    assert row.split()[0] == "mmio:0xa003e00?unbind=on"
    assert row.split()[3] == "virtio-mmio"
    assert rest == ("2 virtio-mmio slots are held by no driver and may be empty: mmio:0xa003a00 to mmio:0xa003c00")


# --- info -------------------------------------------------------------------------------------------------------------


def test_info_as_json_has_this_schema(machine: Machine, capfd: Output) -> None:
    content = as_json(capfd, "info", "vda")
    assert content["device"] == LISTED
    assert content["bars"] == [
        {
            "index": 4,
            "kind": "memory",
            "address": 0x38_0000_0000,
            "size": 0x4000,
            "type": "Width64",
            "prefetchable": True,
        }
    ]
    assert content["features"] == {
        "offered": "0x300000244",
        "names": [
            "VIRTIO_BLK_F_SEG_MAX",
            "VIRTIO_BLK_F_BLK_SIZE",
            "VIRTIO_BLK_F_FLUSH",
            "VIRTIO_F_VERSION_1",
            "VIRTIO_F_ACCESS_PLATFORM",
        ],
    }
    assert content["queues"] == [{"index": 0, "max_size": 64}]
    assert content["config"] == {"capacity_bytes": 1 << 20, "capacity": 2048, "seg_max": 126, "blk_size": 512}
    assert (content["registers_read"], content["why_not"], content["msix_vectors"]) == (True, None, 0)
    assert content["extended_capabilities"] == []
    assert (content["target"], content["type"]) == ("vda", "block")
    assert (content["way"]["transport"], content["way"]["hal"]) == ("pci", "fake"), "a Hal on paper"
    assert set(content) == {
        "schema", "target", "type", "way", "device", "capabilities", "extended_capabilities", "bars", "msix_vectors",
        "registers_read", "why_not", "features", "queues", "config",
    }  # fmt: skip


def test_the_capabilities_say_where_each_structure_is(machine: Machine, capfd: Output) -> None:
    capabilities = as_json(capfd, "info", DISK)["capabilities"]
    assert [entry["virtio"]["structure"] for entry in capabilities] == [
        "COMMON_CFG", "ISR_CFG", "NOTIFY_CFG", "DEVICE_CFG",
    ]  # fmt: skip
    assert capabilities[2] == {
        "offset": 0x60,
        "id": 9,
        "name": "Vendor Specific",
        "virtio": {
            "structure": "NOTIFY_CFG",
            "bar": 4,
            "offset": 0x3000,
            "length": 4,
            "notify_off_multiplier": 4,
            "fault": None,
        },
    }


def test_looking_at_the_registers_changes_none_and_gives_the_device_back(machine: Machine, capfd: Output) -> None:
    machine.disk.status_writes.clear()
    as_json(capfd, "info", DISK)
    assert machine.disk.status_writes == []
    assert machine.given_back()


def test_info_is_readable(machine: Machine, capfd: Output) -> None:
    assert run(["info", DISK]) == 0
    text = capfd.readouterr().out
    for line in (
        f"{DISK}  block, 1af4:1042 (modern)",
        "  driver       virtio-pci",
        "  can take     yes",
        "  BAR 4  memory  0x0000003800000000  16 KiB, Width64, prefetchable",
        "Features offered  0x300000244",
        "  VIRTIO_BLK_F_FLUSH",
        "  0: up to 64 descriptors",
    ):
        assert line in text.splitlines()
    assert "COMMON_CFG in BAR 4 at 0x0, 0x40 bytes" in text


def test_a_disk_in_use_is_described_from_sysfs_alone(machine: Machine, capfd: Output) -> None:
    machine.tree.add_mount("vda", "/")
    content = as_json(capfd, "info", DISK)
    assert (content["registers_read"], content["features"], content["queues"], content["config"]) == (
        False,
        None,
        None,
        None,
    )
    assert content["why_not"] == "in use: mount@vda:/"
    assert len(content["capabilities"]) == 4
    assert machine.tree.writes == []
    assert run(["info", DISK]) == 0
    assert "were not read: in use: mount@vda:/" in capfd.readouterr().out


def test_a_broken_capability_list_is_shown_as_far_as_it_goes(machine: Machine, capfd: Output) -> None:
    config = machine.tree.sysfs.pci_device(DISK) / "config"
    data = bytearray(config.read_bytes())
    data[0x61] = 0x40
    config.write_bytes(data)
    machine.function.config.poke(0x61, b"\x40")
    assert run(["info", DISK]) == 0
    text = capfd.readouterr().out
    assert "COMMON_CFG in BAR 4" in text
    assert "NOTIFY_CFG in BAR 4" in text
    assert "leads back" in text


def test_a_capability_that_cannot_be_used_is_shown_with_the_reason(machine: Machine, capfd: Output) -> None:
    config = machine.tree.sysfs.pci_device(DISK) / "config"
    data = bytearray(config.read_bytes())
    data[0x44] = 7  # the BAR of the common configuration
    config.write_bytes(data)
    machine.function.config.poke(0x44, b"\x07")
    content = as_json(capfd, "info", DISK)
    assert content["capabilities"][0]["virtio"]["fault"] == "names BAR 7, which the function does not have"
    assert "COMMON_CFG" in content["why_not"]
    assert machine.given_back()


@pytest.mark.parametrize(("target", "status"), [("0000:00:1f.0", 6), ("vdz", 6), ("no device", 2)])
def test_what_is_not_there_cannot_be_described(machine: Machine, capfd: Output, target: str, status: int) -> None:
    assert run(["info", target]) == status
    assert capfd.readouterr().err.startswith("hwloop: ")


def test_a_card_that_the_kernel_uses_is_not_taken_to_look_at_it(machine: Machine, capfd: Output) -> None:
    machine.tree.add_pci("0000:00:06.0", 0x1AF4, 0x1041, driver="virtio-pci", iommu_group=9)
    content = as_json(capfd, "info", "0000:00:06.0")
    assert content["features"] is None
    assert content["why_not"] == "driver virtio-pci uses it; take it away first: hwloop unbind 0000:00:06.0"
    assert machine.tree.writes == []


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        ("qemu:no/such.img", 6, "cannot open no/such.img"),
        ("fake:1M?generation-steps=-1", 4, "did not stop changing"),
    ],
)
def test_what_has_nothing_but_registers_and_cannot_be_opened_is_an_error(
    machine: Machine, capfd: Output, target: str, status: int, words: str
) -> None:
    assert run(["info", target]) == status
    captured = capfd.readouterr()
    assert captured.out == ""
    assert words in captured.err


def test_a_device_without_a_transport_is_named_all_the_same(machine: Machine, capfd: Output) -> None:
    assert run(["info", "svirtb:any.img"]) == 0
    assert "were not read: svirtb:any.img has no transport" in capfd.readouterr().out


def test_a_device_that_is_no_function_of_this_machine_is_described_by_its_registers(capfd: Output) -> None:
    content = as_json(capfd, "info", "fake:1M?block-size=4096")
    assert (content["device"], content["capabilities"], content["bars"]) == (None, [], [])
    assert content["way"] == {"transport": "fake", "hal": "fake", "why": ""}
    assert content["config"]["blk_size"] == 4096
    assert run(["info", "fake:1M"]) == 0
    text = capfd.readouterr().out
    assert text.startswith("fake:1M  block\n  reached by   fake over fake\n")
    assert "0: up to 64 descriptors" in text
