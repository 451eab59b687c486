"""A virtio PCI function of this machine, through VFIO."""

from __future__ import annotations

from contextlib import ExitStack
from typing import cast

import udev
from hwloop.claim import Claim
from hwloop.door.base import KernelPlace, Opened, check_options
from hwloop.errors import Unsupported
from hwloop.hal.vfio import VfioHal
from hwloop.signals import shield
from hwloop.spec import DeviceType, device_type_of_pci_id, is_virtio_pci_id
from hwloop.target import Target
from hwloop.transport.pci_modern import PciTransport
from pci import ConfigSpace, parse_resource_file
from udev import PciDevice, Sysfs

OPTIONS = {"hal": ("vfio",)}


class PciPlace(KernelPlace):
    """The function `device`, a virtio device of `device_type`."""

    def __init__(self, target: Target, device: PciDevice, device_type: DeviceType, sysfs: Sysfs) -> None:
        super().__init__(target)
        self.device = device
        self.address = device.address
        self._type = device_type
        self._sysfs = sysfs

    @property
    def device_type(self) -> DeviceType:
        return self._type

    def open_transport(self) -> Opened:
        sysfs = self._sysfs
        with ExitStack() as stack:
            with shield():
                claim = Claim(self.address, sysfs=sysfs)
                stack.callback(claim.give_back)
                bars = parse_resource_file(self.device.resource)
                # A function without a group was refused by the claim.
                group = cast(int, self.device.iommu_group)
                hal = stack.enter_context(VfioHal(self.address, group, bars, str(sysfs.dev)))
                transport = stack.enter_context(PciTransport(hal, ConfigSpace(hal.config_access()), bars))
            # A signal that came meanwhile was raised at the end of the shield, and `stack` has given everything back.
            return Opened(transport, hal, stack.pop_all())


def find(target: Target, sysfs: Sysfs) -> PciPlace:
    """Raises InvalidParam, udev.DeviceNotFound, Unsupported for a function that is not virtio."""
    check_options(target, OPTIONS)
    device = udev.read_pci(sysfs, target.name)
    device_type = device_type_of_pci_id(device.vendor_id, device.device_id)
    if device_type is None:
        virtio = is_virtio_pci_id(device.vendor_id, device.device_id)
        kind = "a virtio device of no known type" if virtio else "not a virtio device"
        raise Unsupported(
            f"{device.address} ({device.vendor_id:04x}:{device.device_id:04x}) is {kind}", remedy="see: hwloop list"
        )
    return PciPlace(target, device, device_type, sysfs)
