"""The nodes that VFIO makes of a function."""

from __future__ import annotations

from pathlib import Path

import pytest

from udev import (
    BindTimeout,
    bind_device,
    is_noiommu_group,
    noiommu_mode,
    read_pci,
    vfio_group_node,
    vfio_node,
    wait_for_vfio,
)
from udev.fake import FakeSysfs

DISK = "0000:00:05.0"


@pytest.fixture
def fake(tmp_path: Path) -> FakeSysfs:
    machine = FakeSysfs(tmp_path / "machine")
    machine.add_driver("vfio-pci")
    return machine


def bind(fake: FakeSysfs, group: int | None) -> None:
    fake.add_pci(DISK, 0x1AF4, 0x1042, driver="virtio-pci", iommu_group=group)
    bind_device(fake.sysfs, DISK, "vfio-pci")


def test_a_group_has_a_node_of_its_number(fake: FakeSysfs) -> None:
    bind(fake, 7)
    wait_for_vfio(fake.sysfs, DISK, 0)
    assert vfio_group_node(fake.sysfs, DISK) == fake.dev / "vfio/7"
    assert not is_noiommu_group(fake.sysfs, 7)
    assert vfio_node(fake.sysfs, DISK) is None, "a folder without a device number is no node"


def test_a_kernel_with_iommufd_gives_the_function_a_node_too(fake: FakeSysfs) -> None:
    fake.add_iommufd()
    bind(fake, 7)
    assert vfio_node(fake.sysfs, DISK) == fake.dev / "vfio/devices/vfio0"


def test_one_of_the_nodes_is_enough(fake: FakeSysfs) -> None:
    fake.add_iommufd()
    bind(fake, 7)
    (fake.dev / "vfio/7").unlink()
    wait_for_vfio(fake.sysfs, DISK, 0)
    (fake.dev / "vfio/devices/vfio0").unlink()
    with pytest.raises(BindTimeout, match=r"vfio/7 or .*devices/vfio0 is no character device after 0\.0 s"):
        wait_for_vfio(fake.sysfs, DISK, 0.02)


def test_a_function_without_an_iommu_has_a_group_that_vfio_made_up(fake: FakeSysfs) -> None:
    fake.set_noiommu_mode("Y")
    assert noiommu_mode(fake.sysfs)
    bind(fake, None)
    wait_for_vfio(fake.sysfs, DISK, 0)
    group = read_pci(fake.sysfs, DISK).iommu_group
    assert group is not None
    assert is_noiommu_group(fake.sysfs, group)
    assert vfio_group_node(fake.sysfs, DISK) == fake.dev / f"vfio/noiommu-{group}"
    bind_device(fake.sysfs, DISK, "virtio-pci")
    assert read_pci(fake.sysfs, DISK).iommu_group is None


def test_without_a_group_there_is_no_node_to_wait_for(fake: FakeSysfs) -> None:
    bind(fake, None)
    assert vfio_group_node(fake.sysfs, DISK) is None
    with pytest.raises(BindTimeout, match="a node of VFIO is no character device"):
        wait_for_vfio(fake.sysfs, DISK, 0.02)


@pytest.mark.parametrize(("text", "on"), [("Y", True), ("N", False), ("1", True)])
def test_the_unsafe_mode_is_read_and_never_written(fake: FakeSysfs, text: str, on: bool) -> None:
    assert noiommu_mode(fake.sysfs) is None
    fake.set_noiommu_mode(text)
    assert noiommu_mode(fake.sysfs) is on
    assert fake.writes == []
