"""What virtio devices this machine has, who holds them, and whether we could take them. Nothing is opened."""

from __future__ import annotations

from dataclasses import dataclass

import udev
from hwloop.claim import group_fault, translates, why_in_use
from hwloop.lock import lock_holder
from hwloop.spec import device_type_of_pci_id, is_transitional_pci_id, is_virtio_pci_id
from udev import PciDevice, Sysfs


@dataclass(frozen=True)
class Record:
    """One virtio PCI function. `uses` are reasons such as `mount@vda1:/`; `why_not` is "" when it can be taken."""

    address: str
    type: str
    vendor_id: int
    device_id: int
    subsystem_vendor_id: int
    subsystem_id: int
    transitional: bool
    driver: str | None
    driver_override: str | None
    iommu_group: int | None
    disks: tuple[str, ...]
    uses: tuple[str, ...]
    locked_by: int | None
    why_not: str

    @property
    def can_take(self) -> bool:
        return not self.why_not

    def as_json(self) -> dict[str, object]:
        """The stable form that `--json` prints; ids are four hexadecimal digits, as lspci shows them."""
        return {
            "address": self.address,
            "type": self.type,
            "vendor_id": f"{self.vendor_id:04x}",
            "device_id": f"{self.device_id:04x}",
            "subsystem_vendor_id": f"{self.subsystem_vendor_id:04x}",
            "subsystem_id": f"{self.subsystem_id:04x}",
            "transitional": self.transitional,
            "driver": self.driver,
            "driver_override": self.driver_override,
            "iommu_group": self.iommu_group,
            "block_devices": list(self.disks),
            "in_use_by": list(self.uses),
            "locked_by": self.locked_by,
            "can_take": self.can_take,
            "why_not": self.why_not or None,
        }


def virtio_functions(sysfs: Sysfs | None = None) -> list[Record]:
    """Every virtio PCI function, by address."""
    sysfs = sysfs or Sysfs()
    return [
        record_of(sysfs, device)
        for device in udev.list_pci(sysfs)
        if is_virtio_pci_id(device.vendor_id, device.device_id)
    ]


def record_of(sysfs: Sysfs, device: PciDevice) -> Record:
    """The record of one function."""
    device_type = device_type_of_pci_id(device.vendor_id, device.device_id)
    disks = udev.block_devices_of(sysfs, device.address)
    uses = tuple(why_in_use(sysfs, disks))
    locked_by = lock_holder(device.address)
    return Record(
        address=device.address,
        type=device_type.label if device_type else f"unknown ({device.device_id:#06x})",
        vendor_id=device.vendor_id,
        device_id=device.device_id,
        subsystem_vendor_id=device.subsystem_vendor_id,
        subsystem_id=device.subsystem_id,
        transitional=is_transitional_pci_id(device.device_id),
        driver=device.driver,
        driver_override=device.driver_override,
        iommu_group=device.iommu_group,
        disks=tuple(disk.name for disk in disks),
        uses=uses,
        locked_by=locked_by,
        why_not=_why_not(sysfs, device, uses, locked_by),
    )


def _why_not(sysfs: Sysfs, device: PciDevice, uses: tuple[str, ...], locked_by: int | None) -> str:
    if uses:
        return f"in use: {', '.join(uses)}"
    if locked_by is not None:
        return f"in use by another hwloop, process {locked_by}"
    # Without an IOMMU that translates it is taken through UIO, which asks for no group.
    return group_fault(sysfs, device) if translates(sysfs, device) else ""
