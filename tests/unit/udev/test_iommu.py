from __future__ import annotations

import pytest

from udev import DeviceNotFound, iommu_group_devices, iommu_group_drivers
from udev.bind import bind
from udev.fake import FakeSysfs


def test_a_group_names_its_devices_and_their_drivers(fake: FakeSysfs) -> None:
    fake.add_pci("0000:00:02.0", 0x8086, 0x100E, iommu_group=7)
    assert iommu_group_devices(fake.sysfs, 7) == ["0000:00:02.0", "0000:00:05.0"]
    assert iommu_group_drivers(fake.sysfs, 7) == {"0000:00:02.0": None, "0000:00:05.0": "virtio-pci"}


def test_the_drivers_of_a_group_follow_a_bind(fake: FakeSysfs) -> None:
    bind(fake.sysfs, "0000:00:05.0", "vfio-pci")
    assert iommu_group_drivers(fake.sysfs, 7) == {"0000:00:05.0": "vfio-pci"}


def test_an_absent_group_says_how_to_turn_the_iommu_on(fake: FakeSysfs) -> None:
    with pytest.raises(DeviceNotFound, match="intel_iommu=on"):
        iommu_group_devices(fake.sysfs, 8)
