"""Opens a target: finds the device, takes it, and puts a driver on a transport on a Hal. The only file that knows all
the tables."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import udev
from hwloop.claim import Claim
from hwloop.device import DRIVERS, Device
from hwloop.errors import InvalidParam, Unsupported
from hwloop.hal.vfio import VfioHal
from hwloop.journal import Journal
from hwloop.signals import shield
from hwloop.spec import DeviceType, device_type_of_pci_id, is_virtio_pci_id
from hwloop.target import Target
from hwloop.transport.pci_modern import PciTransport
from pci import ConfigSpace, parse_resource_file
from udev import PciDevice, Sysfs

_OPTIONS = {"hal": ("vfio",)}


@dataclass(frozen=True)
class Function:
    """A virtio PCI function of this machine, not opened."""

    device: PciDevice
    type: DeviceType

    @property
    def address(self) -> str:
        return self.device.address


def find(target: str | Target, sysfs: Sysfs | None = None) -> Function:
    """The function that a target names. Nothing is opened or changed.

    Raises InvalidParam, udev.DeviceNotFound, Unsupported for a device that is not virtio.
    """
    sysfs = sysfs or Sysfs()
    parsed = Target.parse(target) if isinstance(target, str) else target
    _check_options(parsed)
    device = udev.read_pci(sysfs, _address_of(parsed, sysfs))
    device_type = device_type_of_pci_id(device.vendor_id, device.device_id)
    if device_type is None:
        virtio = is_virtio_pci_id(device.vendor_id, device.device_id)
        kind = "a virtio device of no known type" if virtio else "not a virtio device"
        raise Unsupported(
            f"{device.address} ({device.vendor_id:04x}:{device.device_id:04x}) is {kind}", remedy="see: hwloop list"
        )
    return Function(device, device_type)


def _check_options(target: Target) -> None:
    for key, value in target.options.items():
        allowed = _OPTIONS.get(key)
        if allowed is None:
            raise InvalidParam(f"no option is called {key!r}", remedy=f"there is: {', '.join(_OPTIONS)}")
        if value not in allowed:
            raise InvalidParam(f"option {key} cannot be {value!r}", remedy=f"choose one of: {', '.join(allowed)}")


def _address_of(target: Target, sysfs: Sysfs) -> str:
    if target.kind == "pci":
        return target.name
    try:
        address = udev.pci_address_of_block(sysfs, target.name)
    except udev.DeviceNotFound as error:
        # A disk has no kernel name while it is taken.
        taken = Journal().addresses()
        if taken:
            error.add_note(f"hwloop has taken {', '.join(taken)}; name such a device by its address")
        raise
    if address is None:
        raise Unsupported(f"{target.name} is not on a PCI function", remedy="see: hwloop list")
    return address


def open_transport(function: Function, sysfs: Sysfs | None = None) -> tuple[PciTransport, VfioHal, ExitStack]:
    """Take a function that `find` found, and reach its registers, without initialising the device.

    Returns the transport, the Hal and what gives everything back when it is closed. For tools that look at registers;
    to use a device, `open` it.
    """
    sysfs = sysfs or Sysfs()
    with ExitStack() as stack:
        with shield():
            claim = Claim(function.address, sysfs=sysfs)
            stack.callback(claim.give_back)
            bars = parse_resource_file(function.device.resource)
            # A function without a group was refused by the claim.
            group = cast(int, function.device.iommu_group)
            hal = stack.enter_context(VfioHal(function.address, group, bars, str(sysfs.dev)))
            transport = stack.enter_context(PciTransport(hal, ConfigSpace(hal.config_access()), bars))
        # A signal that came meanwhile was raised at the end of the shield, and `stack` has given everything back.
        return transport, hal, stack.pop_all()


def _close_at_exit(device: Device) -> None:
    """A program that forgets to close its device, or ends by an exception, still gives it back."""
    atexit.register(device.close)
    device.call_when_closed(lambda: atexit.unregister(device.close))


def open(target: str | Target, sysfs: Sysfs | None = None) -> Device:  # noqa: A001
    """Take the device that a target names from the kernel, initialise it and return its driver.

    `with hwloop.open("0000:00:05.0") as disk:` gives it back at the end. A block device is a `VirtioBlk`. Raises
    InvalidParam, RefusedError for a disk in use, SetupError for what the machine lacks, DeviceError.
    """
    function = find(target, sysfs)
    label = function.type.label
    if label not in DRIVERS:
        raise Unsupported(f"hwloop has no driver for {label} devices ({function.address})", remedy="see: hwloop list")
    driver = DRIVERS.get(label)
    with ExitStack() as stack:
        with shield():
            transport, hal, resources = open_transport(function, sysfs)
            stack.push(resources)
            device = driver(transport, hal)
            device.call_when_closed(stack.pop_all().close)
            stack.push(device)
            _close_at_exit(device)
        stack.pop_all()
    return device
