from __future__ import annotations

from pathlib import Path

import pytest

from udev.fake import FakeSysfs

DISK = "0000:00:05.0"


@pytest.fixture
def fake(tmp_path: Path) -> FakeSysfs:
    """A machine with one virtio disk (vda, two partitions) alone in IOMMU group 7, and vfio-pci loaded."""
    machine = FakeSysfs(tmp_path)
    machine.add_driver("vfio-pci")
    machine.add_pci(
        DISK,
        0x1AF4,
        0x1042,
        driver="virtio-pci",
        iommu_group=7,
        block="vda",
        partitions=(4096, 8192),
        subsystem_vendor_id=0x1AF4,
        subsystem_id=0x1100,
        class_code=0x018000,
        revision=1,
    )
    return machine
