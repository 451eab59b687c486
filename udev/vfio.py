"""The device nodes that VFIO makes of a function: its group's, and where the kernel has iommufd one of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from udev.errors import BindTimeout
from udev.node import is_char_device, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from udev.sysfs import Sysfs

ENABLE_NOIOMMU_MODE = "echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
"""The command that lets VFIO hand out functions which no IOMMU confines."""

_NOIOMMU_NAME = "vfio-noiommu"


def is_noiommu_group(sysfs: Sysfs, group: int) -> bool:
    """Whether VFIO made this group up for a function that no IOMMU confines (Linux, drivers/vfio/group.c)."""
    return sysfs.read_optional(sysfs.root / "kernel/iommu_groups" / str(group) / "name") == _NOIOMMU_NAME


def noiommu_mode(sysfs: Sysfs) -> bool | None:
    """Whether VFIO hands out functions without an IOMMU; None where it cannot, or is not loaded."""
    text = sysfs.read_optional(sysfs.root / "module/vfio/parameters/enable_unsafe_noiommu_mode")
    return None if text is None else text in ("Y", "1")


def vfio_group_node(sysfs: Sysfs, address: str) -> Path | None:
    """The node of the function's group, such as /dev/vfio/7 or /dev/vfio/noiommu-0; None where it is in no group. It
    may not be in /dev."""
    group = sysfs.read_link(sysfs.pci_device(address) / "iommu_group")
    if group is None:
        return None
    return sysfs.dev / "vfio" / (f"noiommu-{group}" if is_noiommu_group(sysfs, int(group)) else group)


def vfio_node(sysfs: Sysfs, address: str) -> Path | None:
    """The function's own node, such as /dev/vfio/devices/vfio0; None while vfio-pci does not hold it, and where the
    kernel makes no such nodes: then the folder in sysfs has no device number."""
    folder = sysfs.pci_device(address) / "vfio-dev"
    for name in sysfs.read_names(folder):
        if sysfs.read_optional(folder / name / "dev") is not None:
            return sysfs.dev / "vfio/devices" / name
    return None


def wait_for_vfio(sysfs: Sysfs, address: str, deadline: float) -> None:
    """Wait up to `deadline` seconds for a node of the function, its group's or its own. Raises `BindTimeout`."""

    def nodes() -> list[Path]:
        found = (vfio_group_node(sysfs, address), vfio_node(sysfs, address))
        return [node for node in found if node is not None]

    try:
        wait_until(lambda: any(is_char_device(node) for node in nodes()), "", deadline)
    except BindTimeout:
        names = " or ".join(str(node) for node in nodes()) or "a node of VFIO"
        raise BindTimeout(
            f"PCI function {address}: {names} is no character device after {deadline:.1f} s; is devtmpfs mounted on "
            "/dev (`mount -t devtmpfs dev /dev`) and is the driver bound?"
        ) from None
