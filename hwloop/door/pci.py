"""A virtio PCI function of this machine, through VFIO or UIO, by its modern or its legacy interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import udev
from hwloop.claim import UIO_DRIVER, VFIO_DRIVER, Claim, group_fault, translates
from hwloop.door.base import QUEUE_OPTIONS, WAIT, KernelPlace, Opened, check_options
from hwloop.errors import SetupError, Unsupported
from hwloop.guardian import Guardian, ending
from hwloop.hal import HALS
from hwloop.hal.base import Hal
from hwloop.hal.vfio_function import IOMMU_NODE, ConfinedFunction
from hwloop.signals import shield
from hwloop.spec import DeviceType, Feature, device_type_of_pci_id, is_transitional_pci_id, is_virtio_pci_id
from hwloop.target import Target
from hwloop.transport import TRANSPORTS, Transport
from hwloop.transport.pci_capability import CfgType, virtio_capabilities
from hwloop.transport.pci_modern import PciTransport
from pci import BarInfo, CapabilityError, ConfigAccessError, ConfigSpace, IoBar, SysfsConfigAccess, parse_resource_file
from udev import PciDevice, Sysfs

if TYPE_CHECKING:
    from hwloop.hal.iommufd import IommufdHal
    from hwloop.hal.physical import PhysicalHal
    from hwloop.hal.uio import UioHal
    from hwloop.hal.vfio import VfioHal
    from hwloop.hal.vfio_noiommu import VfioNoIommuHal

    PciHal = VfioHal | IommufdHal | VfioNoIommuHal | UioHal

OPTIONS = {"hal": ("vfio", "uio", "iommufd", "vfio-noiommu"), "mode": ("modern", "legacy")} | WAIT | QUEUE_OPTIONS

_DRIVERS = {"vfio": VFIO_DRIVER, "iommufd": VFIO_DRIVER, "vfio-noiommu": VFIO_DRIVER, "uio": UIO_DRIVER}
_CONFINING = ("vfio", "iommufd")
_LEGACY_BAR = 0


@dataclass(frozen=True)
class Choice:
    """How a function is reached: `hal` is a name of `OPTIONS`, `mode` is `modern` or `legacy`; `why` these."""

    hal: str
    mode: str
    why: str


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

    @cached_property
    def choice(self) -> Choice:
        """Which way this is reached, and why. Reads configuration space, changes nothing.

        Whether a kernel with iommufd gives out functions through it shows only when vfio-pci holds one: where it does
        not, `open_transport` takes VFIO's groups. Raises Unsupported for a mode that the function does not have.
        """
        hal, why_hal = _choose_hal(self._sysfs, self.device, self.target.options.get("hal"))
        mode, why_mode = self._choose_mode(self.target.options.get("mode"))
        return Choice(hal, mode, "; ".join(why for why in (why_hal, why_mode) if why))

    def open_transport(self) -> Opened:
        choice = self.choice
        with ExitStack() as stack:
            with shield():
                guardian = stack.enter_context(Guardian())
                confined = choice.hal != "vfio-noiommu"
                claim = Claim(self.address, _DRIVERS[choice.hal], sysfs=self._sysfs, confined=confined)
                stack.callback(claim.give_back)
                choice = self._confirm(choice)
                if choice.hal != "uio":
                    # VFIO ends the device when our descriptors close, so the guardian must not have them.
                    guardian.watch(claim)
                stack.callback(guardian.device_ended)
                bars = parse_resource_file(self.device.resource)
                hal = self._make_hal(choice.hal, bars)
                stack.enter_context(hal)
                seen = self.filtered(hal)
                transport = stack.enter_context(
                    _make_transport(choice.mode, seen, ConfigSpace(hal.config_access()), bars)
                )
                if choice.hal == "uio":
                    guardian.watch(claim, ending(transport, stops_dma=True), cast("UioHal", hal).descriptors())
                if choice.hal not in _CONFINING:
                    cast("PhysicalHal", hal).memory_keeper = guardian.keep_memory
                self._settle_addresses(choice.hal, hal, transport.read_device_features())
            # A signal that came meanwhile was raised at the end of the shield, and `stack` has given everything back.
            return Opened(transport, seen, stack.pop_all(), choice.why)

    def _confirm(self, choice: Choice) -> Choice:
        """The choice, now that the function is bound. Raises SetupError where what was asked for is not there."""
        if choice.hal != "iommufd" or udev.vfio_node(self._sysfs, self.address) is not None:
            return choice
        fault = f"the kernel gives {self.address} no device node of its own, which iommufd needs"
        if "hal" in self.target.options:
            raise SetupError(fault, remedy="use hal=vfio")
        return replace(choice, hal="vfio", why=f"{choice.why}; {fault}")

    def _make_hal(self, name: str, bars: Mapping[int, BarInfo]) -> PciHal:
        kind = cast("Callable[..., PciHal]", HALS.get(name))
        if name == "uio":
            return kind(self.address, bars, self._sysfs)
        dev = str(self._sysfs.dev)
        if name == "iommufd":
            return kind(self.address, cast(Path, udev.vfio_node(self._sysfs, self.address)), bars, dev)
        # Read again: without an IOMMU the group began when the function was bound. The claim refused one without.
        group = cast(int, udev.read_pci(self._sysfs, self.address).iommu_group)
        return kind(self.address, group, bars, dev)

    def _settle_addresses(self, name: str, hal: PciHal, features: int) -> None:
        """See to it that the addresses which the device will be given are the ones that it uses.

        Without ACCESS_PLATFORM it may go past the IOMMU, as QEMU's do (VIRTIO 1.4, 6.1): then only physical addresses
        are right. With it, physical addresses are wrong where the IOMMU translates. Raises SetupError.
        """
        through_iommu = bool(features & Feature.ACCESS_PLATFORM)
        if name in _CONFINING:
            if not through_iommu:
                cast(ConfinedFunction, hal).use_physical_addresses()
        elif through_iommu and translates(self._sysfs, self.device):
            raise SetupError(
                f"{self.address} reaches memory through IOMMU group {self.device.iommu_group}, and UIO can map nothing "
                "there",
                remedy="use hal=vfio, or boot with iommu=pt",
            )

    def _choose_mode(self, wanted: str | None) -> tuple[str, str]:
        device = self.device
        if not is_transitional_pci_id(device.device_id):
            if wanted == "legacy":
                raise Unsupported(
                    f"{device.address} ({device.vendor_id:04x}:{device.device_id:04x}) has no legacy interface: "
                    "its id is that of a modern device",
                    remedy="leave mode=legacy out",
                )
            return "modern", ""
        if wanted == "legacy":
            return self._legacy("mode=legacy was asked for")
        if self._has_modern_interface():
            return "modern", ""
        if wanted == "modern":
            raise Unsupported(
                f"{device.address} has no virtio capabilities: it is a legacy device", remedy="leave mode=modern out"
            )
        return self._legacy("it has no virtio capabilities, so no modern interface")

    def _legacy(self, why: str) -> tuple[str, str]:
        if not isinstance(parse_resource_file(self.device.resource).get(_LEGACY_BAR), IoBar):
            raise Unsupported(f"{self.address} has no legacy interface: BAR {_LEGACY_BAR} is no I/O BAR")
        return "legacy", why

    def _has_modern_interface(self) -> bool:
        """Whether there is a capability for the common configuration. Where that cannot be known there is one: the
        modern transport then says what is wrong."""
        try:
            with SysfsConfigAccess(self._sysfs.pci_device(self.address) / "config") as access:
                found = virtio_capabilities(ConfigSpace(access))
                return any(capability.cfg_type == CfgType.COMMON_CFG for capability in found)
        except (CapabilityError, ConfigAccessError):
            return True


def _choose_hal(sysfs: Sysfs, device: PciDevice, wanted: str | None) -> tuple[str, str]:
    """The safest that works here: VFIO confines the device to its memory, UIO does not. Of the two ways to an IOMMU the
    newer one; VFIO without an IOMMU only on demand."""
    if wanted is not None:
        danger = ", and nothing confines it" if wanted == "vfio-noiommu" else ""
        return wanted, f"hal={wanted} was asked for{danger}"
    fault = group_fault(sysfs, device)
    if not fault:
        confined = f"IOMMU group {device.iommu_group} confines it"
        if (sysfs.dev / IOMMU_NODE).exists():
            return "iommufd", f"{confined}, and the kernel has iommufd"
        return "vfio", confined
    # With a group that VFIO cannot have, but which translates, physical addresses would be wrong: VFIO says what to do.
    return ("vfio" if translates(sysfs, device) else "uio"), fault


def _make_transport(mode: str, hal: Hal, config: ConfigSpace, bars: Mapping[int, BarInfo]) -> Transport:
    if mode == "modern":
        return PciTransport(hal, config, bars)
    legacy = cast(Callable[..., Transport], TRANSPORTS.get("pci-legacy"))
    return legacy(hal, config, bars)


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
