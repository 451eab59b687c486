"""A fake device of any type behind each transport that can carry it in process. To add one: a function, and a line in
`MACHINES`; every suite that is not about disks runs over it then."""

from __future__ import annotations

from collections.abc import Callable

from hwloop.config import ConfigStruct
from hwloop.device.blk_protocol import BlkConfig
from hwloop.device.console_protocol import ConsoleConfig
from hwloop.hal.fake import FakeHal
from hwloop.spec import DeviceType
from hwloop.transport.base import Transport
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import FakeDevice
from hwloop.transport.fake_mmio import FakeMmioDevice
from hwloop.transport.fake_pci import FakePciFunction
from hwloop.transport.fake_pci_config import FakeMsix
from hwloop.transport.fake_pci_legacy import FakePciLegacyFunction
from hwloop.transport.mmio import MmioTransport
from hwloop.transport.pci_legacy import PciLegacyTransport
from hwloop.transport.pci_modern import PciTransport
from pci import ConfigSpace

Machine = Callable[[FakeHal, FakeDevice], Transport]

_CONFIGS: dict[DeviceType, type[ConfigStruct]] = {DeviceType.Block: BlkConfig, DeviceType.Console: ConsoleConfig}
"""Registers of memory check that each field of a configuration is read with its width."""


def plain(hal: FakeHal, device: FakeDevice) -> Transport:
    _connect(hal, device)
    return FakeTransport(device)


def pci(hal: FakeHal, device: FakeDevice) -> Transport:
    return _pci(hal, FakePciFunction(device, msix_vectors=_vectors(hal)))


def old_pci(hal: FakeHal, device: FakeDevice) -> Transport:
    """VIRTIO 1.0: a short common configuration, and one doorbell for all queues."""
    return _pci(hal, FakePciFunction(device, common_length=56, multiplier=0))


def legacy_pci(hal: FakeHal, device: FakeDevice) -> Transport:
    """The legacy interface of a function that has no other."""
    function = FakePciLegacyFunction(device, msix_vectors=_vectors(hal))
    _connect(hal, device, function.msix)
    hal.ports[function.port] = function.ports
    return PciLegacyTransport(hal, ConfigSpace(function.config), function.bars)


def transitional_pci(hal: FakeHal, device: FakeDevice) -> Transport:
    """A function with both interfaces, driven through the modern one."""
    return _pci(hal, _transitional(hal, device))


def transitional_legacy_pci(hal: FakeHal, device: FakeDevice) -> Transport:
    """The same function, driven through the legacy interface."""
    function = _transitional(hal, device)
    return PciLegacyTransport(hal, ConfigSpace(function.config), function.bars)


def mmio(hal: FakeHal, device: FakeDevice, version: int = 2) -> Transport:
    bank = FakeMmioDevice(device, version, config=_CONFIGS.get(device.device_type))
    _connect(hal, device)
    hal.regions[bank.address] = bank.region
    return MmioTransport(hal, bank.address)


def legacy_mmio(hal: FakeHal, device: FakeDevice) -> Transport:
    """Version 1 of the registers."""
    return mmio(hal, device, 1)


def _vectors(hal: FakeHal) -> int:
    return hal.interrupts.count if hal.interrupts is not None else 0


def _connect(hal: FakeHal, device: FakeDevice, msix: FakeMsix | None = None) -> None:
    """The interrupts of the device go where the Hal hears them, if it does."""
    device.send_message = device.send_message if msix is not None else None
    if hal.interrupts is not None:
        if msix is not None:
            msix.connect(hal.interrupts)
        device.connect(hal.interrupts)


def _pci(hal: FakeHal, function: FakePciFunction) -> Transport:
    _connect(hal, function.device, function.msix)
    hal.regions[function.address] = function.region
    return PciTransport(hal, ConfigSpace(function.config), function.bars)


def _transitional(hal: FakeHal, device: FakeDevice) -> FakePciFunction:
    function = FakePciFunction(device, transitional=True, msix_vectors=3)
    hal.regions[function.address] = function.region
    hal.ports[function.port] = function.ports
    return function


MACHINES: dict[str, Machine] = {
    "fake": plain,
    "mmio-1": legacy_mmio,
    "mmio-2": mmio,
    "pci": pci,
    "pci-1.0": old_pci,
    "pci-legacy": legacy_pci,
    "pci-transitional": transitional_pci,
    "pci-transitional-legacy": transitional_legacy_pci,
}

WITH_LEGACY = frozenset({"mmio-1", "pci-legacy", "pci-transitional", "pci-transitional-legacy"})
"""Those whose devices have a legacy interface, and so offer what only that has."""
