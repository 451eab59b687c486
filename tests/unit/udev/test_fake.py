from __future__ import annotations

import errno

import pytest

from udev import BindTimeout, UdevError, block_devices_of, current_driver, read_pci, unbind
from udev.bind import bind
from udev.fake import FakeSysfs

DISK = "0000:00:05.0"


def test_a_control_attribute_must_be_written_with_a_deadline(fake: FakeSysfs) -> None:
    with pytest.raises(AssertionError, match="without a deadline"):
        fake.sysfs.write(fake.sysfs.pci_driver("virtio-pci") / "unbind", DISK)


def test_an_ordinary_attribute_keeps_what_is_written(fake: FakeSysfs) -> None:
    fake.sysfs.write(fake.sysfs.pci_device(DISK) / "enable", "0")
    assert not read_pci(fake.sysfs, DISK).enabled


def test_the_configuration_header_agrees_with_the_attributes(fake: FakeSysfs) -> None:
    header = (fake.sysfs.pci_device(DISK) / "config").read_bytes()
    assert len(header) == 256
    assert header[:4] == bytes.fromhex("f41a4210")
    assert header[8:12] == bytes.fromhex("01008001")
    assert header[0x2C:0x30] == bytes.fromhex("f41a0011")


def test_a_direct_bind_needs_a_matching_driver_and_a_free_device(fake: FakeSysfs) -> None:
    with pytest.raises(UdevError):
        fake.sysfs.write(fake.sysfs.pci_driver("vfio-pci") / "bind", DISK, 1)
    with pytest.raises(UdevError) as caught:
        fake.sysfs.write(fake.sysfs.pci_driver("virtio-pci") / "bind", DISK, 1)
    assert caught.value.errno == errno.EBUSY
    unbind(fake.sysfs, DISK)
    fake.sysfs.write(fake.sysfs.pci_driver("virtio-pci") / "bind", DISK, 1)
    assert current_driver(fake.sysfs, DISK) == "virtio-pci"


def test_probing_without_override_gives_the_device_to_its_home_driver(fake: FakeSysfs) -> None:
    unbind(fake.sysfs, DISK)
    fake.sysfs.write(fake.sysfs.drivers_probe(), DISK, 1)
    assert [disk.name for disk in block_devices_of(fake.sysfs, DISK)] == ["vda"]


def test_uio_has_a_node_and_a_folder_while_it_holds_the_device(fake: FakeSysfs) -> None:
    fake.add_driver("uio_pci_generic")
    bind(fake.sysfs, DISK, "uio_pci_generic")
    assert (fake.dev / "uio0").is_char_device()
    assert fake.sysfs.read_names(fake.sysfs.pci_device(DISK) / "uio") == ["uio0"]
    unbind(fake.sysfs, DISK)
    assert not (fake.dev / "uio0").exists()


def test_the_node_of_a_group_stays_while_one_member_is_held(fake: FakeSysfs) -> None:
    fake.add_pci("0000:00:02.0", 0x8086, 0x100E, iommu_group=7)
    for address in (DISK, "0000:00:02.0"):
        bind(fake.sysfs, address, "vfio-pci")
    unbind(fake.sysfs, DISK)
    assert (fake.dev / "vfio/7").exists()
    unbind(fake.sysfs, "0000:00:02.0")
    assert not (fake.dev / "vfio/7").exists()


def test_a_hot_unplug_takes_the_function_and_its_disk(fake: FakeSysfs) -> None:
    fake.remove_pci(DISK)
    assert not fake.sysfs.pci_device(DISK).exists()
    assert fake.sysfs.read_names(fake.root / "class/block") == []


def test_a_hang_locks_the_device_until_it_is_released(fake: FakeSysfs) -> None:
    fake.unbind_hangs = True
    with pytest.raises(BindTimeout):
        unbind(fake.sysfs, DISK, 1)
    fake.unbind_hangs = False
    with pytest.raises(BindTimeout):
        unbind(fake.sysfs, DISK, 1)
    fake.release()
    assert current_driver(fake.sysfs, DISK) is None
