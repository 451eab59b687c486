"""What devices exist and which driver holds them: PCI functions, memory-mapped nodes, disks, IOMMU groups, events; and
giving a device to another driver and back. Works with no udevd running, and on a fake tree (`udev.fake`). pyudev is
loaded by the calls that need it. `udev.bind` is the module: the function is `udev.bind.bind`, or here `bind_device`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from udev.bind import bind as bind_device
    from udev.bind import (
        clear_override,
        current_driver,
        driver_exists,
        load_module,
        rebind,
        set_override,
        unbind,
    )
    from udev.block import (
        BlockDevice,
        block_devices_of,
        block_devices_under,
        pci_address_of_block,
        read_block,
        who_holds,
    )
    from udev.errors import BindError, BindTimeout, DeviceNotFound, ModuleMissing, UdevError
    from udev.events import DeviceEvent, Monitor
    from udev.iommu import iommu_group_devices, iommu_group_drivers
    from udev.memory import list_ram
    from udev.node import wait_for_node, wait_until
    from udev.pci import OVERRIDE_BUSY, PciDevice, list_pci, read_override, read_pci
    from udev.platform import MmioNode, list_mmio, mmio_node_of_block, read_mmio
    from udev.sysfs import Sysfs, is_pci_address
    from udev.uio import processes_with, uio_node, wait_for_uio
    from udev.vfio import ENABLE_NOIOMMU_MODE, is_noiommu_group, noiommu_mode, vfio_group_node, vfio_node, wait_for_vfio

# Imported when they are first used: a command needs few of these, and an emulated guest takes long over each.
_HOMES = {
    "BindError": "udev.errors",
    "BindTimeout": "udev.errors",
    "BlockDevice": "udev.block",
    "DeviceEvent": "udev.events",
    "DeviceNotFound": "udev.errors",
    "ENABLE_NOIOMMU_MODE": "udev.vfio",
    "MmioNode": "udev.platform",
    "ModuleMissing": "udev.errors",
    "Monitor": "udev.events",
    "OVERRIDE_BUSY": "udev.pci",
    "PciDevice": "udev.pci",
    "Sysfs": "udev.sysfs",
    "UdevError": "udev.errors",
    "bind_device": "udev.bind:bind",
    "block_devices_of": "udev.block",
    "block_devices_under": "udev.block",
    "clear_override": "udev.bind",
    "current_driver": "udev.bind",
    "driver_exists": "udev.bind",
    "iommu_group_devices": "udev.iommu",
    "iommu_group_drivers": "udev.iommu",
    "is_noiommu_group": "udev.vfio",
    "is_pci_address": "udev.sysfs",
    "list_mmio": "udev.platform",
    "list_pci": "udev.pci",
    "list_ram": "udev.memory",
    "load_module": "udev.bind",
    "mmio_node_of_block": "udev.platform",
    "noiommu_mode": "udev.vfio",
    "pci_address_of_block": "udev.block",
    "processes_with": "udev.uio",
    "read_block": "udev.block",
    "read_mmio": "udev.platform",
    "read_override": "udev.pci",
    "read_pci": "udev.pci",
    "rebind": "udev.bind",
    "set_override": "udev.bind",
    "uio_node": "udev.uio",
    "unbind": "udev.bind",
    "vfio_group_node": "udev.vfio",
    "vfio_node": "udev.vfio",
    "wait_for_node": "udev.node",
    "wait_for_uio": "udev.uio",
    "wait_for_vfio": "udev.vfio",
    "wait_until": "udev.node",
    "who_holds": "udev.block",
}

__all__ = [
    "ENABLE_NOIOMMU_MODE",
    "OVERRIDE_BUSY",
    "BindError",
    "BindTimeout",
    "BlockDevice",
    "DeviceEvent",
    "DeviceNotFound",
    "MmioNode",
    "ModuleMissing",
    "Monitor",
    "PciDevice",
    "Sysfs",
    "UdevError",
    "bind_device",
    "block_devices_of",
    "block_devices_under",
    "clear_override",
    "current_driver",
    "driver_exists",
    "iommu_group_devices",
    "iommu_group_drivers",
    "is_noiommu_group",
    "is_pci_address",
    "list_mmio",
    "list_pci",
    "list_ram",
    "load_module",
    "mmio_node_of_block",
    "noiommu_mode",
    "pci_address_of_block",
    "processes_with",
    "read_block",
    "read_mmio",
    "read_override",
    "read_pci",
    "rebind",
    "set_override",
    "uio_node",
    "unbind",
    "vfio_group_node",
    "vfio_node",
    "wait_for_node",
    "wait_for_uio",
    "wait_for_vfio",
    "wait_until",
    "who_holds",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute or name)
    globals()[name] = value
    return value
