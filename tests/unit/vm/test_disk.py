"""What `--disk` means to QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwloop.vm import disk
from hwloop.vm.bus import Bus, MmioBus, PciBus
from hwloop.vm.errors import BadOption, MissingFile
from hwloop.vm.machine import machine

SLOTS = range(0x05, 0x1E)
PCI = PciBus(SLOTS, share_slot=0x1E)
MMIO = MmioBus(0x1000, range(1, 4))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    return path


def options(argument: str) -> dict[str, str]:
    """QEMU's key=value list, the word in front as `""`."""
    words = [word.replace("\0", ",") for word in argument.replace(",,", "\0").split(",")]
    return {key if equals else "": value if equals else key for key, equals, value in (w.partition("=") for w in words)}


def qemu(*disks: str, bus: Bus = PCI) -> list[tuple[dict[str, str], dict[str, str]]]:
    """For each disk what -drive and -device are told."""
    words = disk.arguments([disk.parse(text) for text in disks], bus)
    assert words[0::4] == ["-drive"] * len(disks)
    assert words[2::4] == ["-device"] * len(disks)
    return [(options(drive), options(device)) for drive, device in zip(words[1::4], words[3::4], strict=True)]


def test_a_plain_disk_is_a_raw_modern_device_behind_the_iommu(image: Path) -> None:
    [(drive, device)] = qemu(str(image))
    assert drive["file"] == str(image)
    assert drive["format"] == "raw"
    assert device[""] == "virtio-blk-pci"
    assert device["drive"] == drive["id"]
    assert (device["iommu_platform"], device["disable-legacy"], device["addr"]) == ("on", "on", "05.0")


def test_disks_are_at_one_slot_after_the_other(image: Path) -> None:
    assert [device["addr"] for _, device in qemu(*[str(image)] * 3)] == ["05.0", "06.0", "07.0"]


def test_options_of_the_device_override_its_defaults(image: Path) -> None:
    [(_, device)] = qemu(f"{image},disable-legacy=off,iommu_platform=off,num-queues=4,packed=on,serial=S0")
    assert device["disable-legacy"] == device["iommu_platform"] == "off"
    assert (device["num-queues"], device["packed"], device["serial"]) == ("4", "on", "S0")


def test_options_of_the_drive_go_to_the_drive(image: Path) -> None:
    [(drive, device)] = qemu(f"{image},read-only,cache=none,snapshot=on,throttling.iops-total=5,format=qcow2")
    assert drive["readonly"] == drive["snapshot"] == "on"
    assert (drive["cache"], drive["throttling.iops-total"], drive["format"]) == ("none", "5", "qcow2")
    assert not {"read-only", "readonly", "cache", "snapshot", "format"} & set(device)


def test_a_disk_with_a_bus_gets_no_slot_of_ours(image: Path) -> None:
    (_, first), (_, second) = qemu(f"{image},bus=rp0", str(image))
    assert "addr" not in first
    assert second["addr"] == "06.0"


def test_a_slot_that_another_disk_asked_for_is_passed_over(image: Path) -> None:
    (_, first), (_, second) = qemu(f"{image},addr=06.0", str(image))
    assert (first["addr"], second["addr"]) == ("06.0", "07.0")


def test_the_same_address_on_another_bus_takes_no_slot(image: Path) -> None:
    (_, first), (_, second) = qemu(str(image), f"{image},bus=bridge0,addr=05.0")
    assert (first["addr"], second["addr"]) == ("05.0", "05.0")


def test_on_a_machine_without_pci_the_disks_are_in_the_slots_of_their_turn(image: Path) -> None:
    devices = [device for _, device in qemu(*[f"{image},serial=S0"] * 3, bus=MMIO)]
    assert [device["bus"] for device in devices] == [f"virtio-mmio-bus.{slot}" for slot in (1, 2, 3)]
    assert {device[""] for device in devices} == {"virtio-blk-device"}
    assert devices[0].keys() == {"", "drive", "bus", "serial"}, "and nothing of PCI"


def test_an_mmio_slot_that_another_disk_asked_for_is_passed_over(image: Path) -> None:
    devices = [device for _, device in qemu(str(image), f"{image},bus=virtio-mmio-bus.1", bus=MMIO)]
    assert [device["bus"] for device in devices] == ["virtio-mmio-bus.2", "virtio-mmio-bus.1"]


@pytest.mark.parametrize("option", ["addr=05.0", "disable-legacy=on", "vectors=2", "multifunction"])
def test_options_of_pci_are_refused_on_a_machine_without_it(image: Path, option: str) -> None:
    with pytest.raises(BadOption, match=f"{option.partition('=')[0]}= is of PCI") as caught:
        qemu(f"{image},{option}", bus=MMIO)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("bus", ["rp0", "virtio-mmio-bus.4", "virtio-mmio-bus.x"])
def test_a_bus_that_the_machine_has_not_is_refused(image: Path, bus: str) -> None:
    with pytest.raises(BadOption, match=r"is not there; choose virtio-mmio-bus\.N with N from 1 to 3"):
        qemu(f"{image},bus={bus}", bus=MMIO)


def test_more_disks_than_mmio_slots_are_refused(image: Path) -> None:
    with pytest.raises(BadOption, match="the machine has 3"):
        qemu(*[str(image)] * 4, bus=MMIO)


def test_the_address_of_a_disk_is_known_before_the_guest_starts() -> None:
    assert [MMIO.address(turn) for turn in range(3)] == [0x1200, 0x1400, 0x1600]


def test_qcow2_is_recognized_by_its_magic(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"QFI\xfb" + bytes(508))
    [(drive, _)] = qemu(str(path))
    assert drive["format"] == "qcow2"


def test_a_raw_image_that_says_qcow2_stays_raw_when_told_so(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"QFI\xfb" + bytes(508))
    [(drive, _)] = qemu(f"{path},format=raw")
    assert drive["format"] == "raw"


def test_a_comma_in_a_path_is_doubled_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "a,b.img"
    path.write_bytes(bytes(512))
    [(drive, _)] = qemu(str(path).replace(",", ",,"))
    assert drive["file"] == str(path)


def test_a_relative_path_becomes_absolute(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image.parent)
    [(drive, _)] = qemu("disk.img")
    assert drive["file"] == str(image)


def test_a_protocol_of_qemu_is_left_as_it_is() -> None:
    [(drive, _)] = qemu("null-co://,file.size=1M")
    assert (drive["file"], drive["file.size"]) == ("null-co://", "1M")


def test_an_image_that_is_not_there_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="truncate -s 64M") as caught:
        qemu(str(tmp_path / "none.img"))
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("text", ["", ",addr=05.0"])
def test_a_disk_without_a_path_is_refused(text: str) -> None:
    with pytest.raises(BadOption, match="no path"):
        disk.parse(text)


@pytest.mark.parametrize("key", sorted(disk.OURS))
def test_keys_that_tie_the_drive_to_the_device_are_refused(key: str) -> None:
    with pytest.raises(BadOption, match=key) as caught:
        disk.parse(f"disk.img,{key}=x")
    assert caught.value.exit_code == 2


def test_an_option_without_a_name_is_refused() -> None:
    with pytest.raises(BadOption, match="without a name"):
        disk.parse("disk.img,=on")


def test_an_address_that_is_no_number_is_refused(image: Path) -> None:
    with pytest.raises(BadOption, match="SLOT"):
        qemu(f"{image},addr=first")


def test_more_disks_than_slots_are_refused(image: Path) -> None:
    with pytest.raises(BadOption, match="no slot"):
        qemu(*[str(image)] * (len(SLOTS) + 1))


def test_the_first_disk_of_each_machine_is_where_the_help_says() -> None:
    assert machine("microvm").bus.address(0) == 0xFEB02E00  # type: ignore[attr-defined]
    assert machine("virt").bus.address(0) == 0x0A000000  # type: ignore[attr-defined]
