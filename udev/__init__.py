"""What devices exist and which driver holds them: PCI functions, memory-mapped nodes, disks, IOMMU groups, events; and
giving a device to another driver and back. Works with no udevd running, and on a fake tree (`udev.fake`). pyudev is
loaded by the calls that need it. `udev.bind` is the module: the function is `udev.bind.bind`, or here `bind_device`.
"""

from __future__ import annotations

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
