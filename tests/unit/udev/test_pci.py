from __future__ import annotations

import os
from pathlib import Path

import pytest

from udev import OVERRIDE_BUSY, BindTimeout, DeviceNotFound, PciDevice, Sysfs, list_pci, pci, read_pci, unbind
from udev.fake import FakeSysfs

DISK = "0000:00:05.0"
_REAL = Path("/sys/bus/pci/devices")
real_machine = pytest.mark.skipif(not (_REAL.is_dir() and os.listdir(_REAL)), reason="no PCI functions on this machine")


def test_a_function_is_read_as_its_header_says(fake: FakeSysfs) -> None:
    assert read_pci(fake.sysfs, DISK) == PciDevice(
        address=DISK,
        vendor_id=0x1AF4,
        device_id=0x1042,
        subsystem_vendor_id=0x1AF4,
        subsystem_id=0x1100,
        class_code=0x018000,
        revision=1,
        driver="virtio-pci",
        driver_override=None,
        iommu_group=7,
        resource="0x0000000000000000 0x0000000000000000 0x0000000000000000\n" * 7,
        modalias="pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc80i00",
        enabled=True,
    )


def test_a_function_with_nothing_optional_has_none_there(fake: FakeSysfs) -> None:
    fake.add_pci("0000:00:02.0", 0x8086, 0x100E, enabled=False)
    device = read_pci(fake.sysfs, "0000:00:02.0")
    assert (device.driver, device.driver_override, device.iommu_group, device.enabled) == (None, None, None, False)


def test_an_override_is_read_back(fake: FakeSysfs) -> None:
    fake.add_pci("0000:00:02.0", 0x8086, 0x100E, driver_override="vfio-pci")
    assert read_pci(fake.sysfs, "0000:00:02.0").driver_override == "vfio-pci"


def test_functions_are_listed_by_address(fake: FakeSysfs) -> None:
    fake.add_pci("0000:01:00.0", 0x8086, 0x100E)
    fake.add_pci("0000:00:02.0", 0x8086, 0x100E)
    assert [device.address for device in list_pci(fake.sysfs)] == ["0000:00:02.0", DISK, "0000:01:00.0"]


def test_an_absent_function_is_named_with_the_way_to_find_others(fake: FakeSysfs) -> None:
    with pytest.raises(DeviceNotFound, match=r"0000:00:1f\.0: not on this machine; `ls "):
        read_pci(fake.sysfs, "0000:00:1f.0")


def test_a_function_that_goes_away_while_listing_is_left_out(fake: FakeSysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pci, "choose_enumerator", lambda sysfs: lambda sysfs: [DISK, "0000:00:1f.0"])
    assert [device.address for device in list_pci(fake.sysfs)] == [DISK]


def test_a_stuck_function_is_listed_as_busy_and_does_not_hide_the_others(fake: FakeSysfs) -> None:
    fake.add_pci("0000:00:02.0", 0x8086, 0x100E)
    fake.unbind_hangs = True
    with pytest.raises(BindTimeout):
        unbind(fake.sysfs, DISK)
    assert [device.driver_override for device in list_pci(fake.sysfs)] == [None, OVERRIDE_BUSY]
    with pytest.raises(BindTimeout):
        read_pci(fake.sysfs, DISK)


def test_another_tree_is_enumerated_by_its_folder(fake: FakeSysfs) -> None:
    assert pci.choose_enumerator(fake.sysfs) is pci.directory_addresses


def test_the_running_kernel_is_enumerated_by_pyudev() -> None:
    pytest.importorskip("pyudev")
    assert pci.choose_enumerator(Sysfs()) is pci.pyudev_addresses


@real_machine
def test_pyudev_and_the_folder_agree_on_the_real_machine() -> None:
    pytest.importorskip("pyudev")
    assert pci.pyudev_addresses(Sysfs()) == pci.directory_addresses(Sysfs()) != []


@real_machine
def test_the_real_machine_is_listed_without_error() -> None:
    devices = list_pci(Sysfs())
    assert [device.address for device in devices] == sorted(os.listdir(_REAL))
    for device in devices:
        assert f"v{device.vendor_id:08X}d{device.device_id:08X}" in device.modalias
        assert len(device.resource.splitlines()) >= 6
