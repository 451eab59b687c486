"""A disk by the kernel's name for it, such as `vda`: the device behind it."""

from __future__ import annotations

import udev
from hwloop.door.base import Place
from hwloop.errors import Unsupported
from hwloop.journal import Journal
from hwloop.target import Target
from udev import Sysfs


def find(target: Target, sysfs: Sysfs) -> Place:
    """Raises udev.DeviceNotFound, Unsupported for a disk that is not behind a device we can reach."""
    try:
        address = udev.pci_address_of_block(sysfs, target.name)
        node = udev.mmio_node_of_block(sysfs, target.name)
    except udev.DeviceNotFound as error:
        # A disk has no kernel name while it is taken.
        taken = Journal().addresses()
        if taken:
            error.add_note(f"hwloop has taken {', '.join(taken)}; name such a device by its address")
        raise
    if node is not None:
        from hwloop.door import mmio

        return mmio.find(Target("mmio", node, target.options), sysfs)
    if address is not None:
        from hwloop.door import pci

        return pci.find(Target("pci", address, target.options), sysfs)
    raise Unsupported(f"{target.name} is not on a PCI function, nor on a virtio-mmio node", remedy="see: hwloop list")
