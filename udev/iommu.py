"""IOMMU groups: the devices that can only be handed to user space together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from udev.errors import DeviceNotFound

if TYPE_CHECKING:
    from pathlib import Path

    from udev.sysfs import Sysfs


def iommu_group_devices(sysfs: Sysfs, group: int) -> list[str]:
    """The names of the devices in an IOMMU group, sorted. Raises `DeviceNotFound` when there is no such group."""
    return sysfs.read_names(_devices(sysfs, group))


def iommu_group_drivers(sysfs: Sysfs, group: int) -> dict[str, str | None]:
    """The driver (or None) of each device in an IOMMU group. Raises `DeviceNotFound` when there is no such group."""
    folder = _devices(sysfs, group)
    return {name: sysfs.read_link(folder / name / "driver") for name in sysfs.read_names(folder)}


def _devices(sysfs: Sysfs, group: int) -> Path:
    folder = sysfs.root / "kernel/iommu_groups" / str(group) / "devices"
    if not folder.is_dir():
        raise DeviceNotFound(
            f"IOMMU group {group}: not on this machine; `ls {folder.parents[1]}` lists them, and an empty list means "
            "that no IOMMU is on (kernel parameter intel_iommu=on or amd_iommu=on)"
        )
    return folder
