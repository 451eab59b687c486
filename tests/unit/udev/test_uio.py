"""The node of a UIO driver, and who has it open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from udev import BindTimeout, Sysfs, bind_device, block_devices_of, processes_with, uio_node, wait_for_uio
from udev.fake import FakeSysfs

DISK = "0000:00:05.0"


@pytest.fixture
def bound(tmp_path: Path) -> FakeSysfs:
    fake = FakeSysfs(tmp_path / "machine")
    fake.add_driver("uio_pci_generic")
    fake.add_pci(DISK, 0x1AF4, 0x1001, driver="virtio-pci", block="vda")
    bind_device(fake.sysfs, DISK, "uio_pci_generic")
    return fake


def test_the_node_is_found_through_the_function(bound: FakeSysfs) -> None:
    assert uio_node(bound.sysfs, DISK) == bound.dev / "uio0"
    assert wait_for_uio(bound.sysfs, DISK, 1) == bound.dev / "uio0"


def test_a_function_of_another_driver_has_no_node(bound: FakeSysfs) -> None:
    bind_device(bound.sysfs, DISK, "virtio-pci")
    assert uio_node(bound.sysfs, DISK) is None
    with pytest.raises(BindTimeout, match=f"{DISK}: no UIO device after 0.0 s"):
        wait_for_uio(bound.sysfs, DISK, 0.02)


def test_a_node_that_devtmpfs_has_not_made_is_waited_for(bound: FakeSysfs) -> None:
    (bound.dev / "uio0").unlink()
    with pytest.raises(BindTimeout, match="uio0: no character device"):
        wait_for_uio(bound.sysfs, DISK, 0.02)


def test_the_processes_that_have_a_node_open_are_found(bound: FakeSysfs) -> None:
    node = bound.dev / "uio0"
    assert processes_with(bound.sysfs, node) == []
    bound.add_open_file(30, bound.dev / "uio1")
    bound.add_open_file(7, bound.dev / "vda")
    bound.add_open_file(7, node)
    bound.add_open_file(5, node)
    assert processes_with(bound.sysfs, node) == [5, 7]


def test_a_process_of_the_real_tree_is_found_by_what_it_has_open(tmp_path: Path) -> None:
    file = tmp_path / "node"
    with open(file, "w"):
        assert processes_with(Sysfs(), file) == [os.getpid()]
    assert processes_with(Sysfs(), file) == []


def test_the_disks_of_a_memory_mapped_node_are_found(tmp_path: Path) -> None:
    fake = FakeSysfs(tmp_path / "board")
    fake.add_mmio("a003e00.virtio_mmio", driver="virtio-mmio", block="vda", partitions=(512,))
    (disk,) = block_devices_of(fake.sysfs, "a003e00.virtio_mmio", bus="platform")
    assert (disk.name, disk.partitions) == ("vda", ("vda1",))
