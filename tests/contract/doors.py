"""The table of doors. To add one: a class, and a line in `DOORS`; the suite then runs over it.

Doors into a test VM (VFIO and others) stand in tests/guest, where the same suite is imported with a table of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_protocol import BlkConfig
from hwloop.device.fake_blk import FakeBlk
from hwloop.hal.fake import FakeHal
from hwloop.spec import BlkFeature, Feature
from hwloop.transport.base import Transport
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN
from hwloop.transport.fake_mmio import FakeMmioDevice
from hwloop.transport.fake_pci import FakePciFunction
from hwloop.transport.fake_pci_legacy import FakePciLegacyFunction
from hwloop.transport.mmio import MmioTransport
from hwloop.transport.pci_legacy import PciLegacyTransport
from hwloop.transport.pci_modern import PciTransport
from pci import BarInfo, ConfigSpace
from tests.contract.door import Door, Wants
from tests.contract.svirtb_doors import SvirtbDoor

REQUEST_SECONDS = 0.1


class FakeDoor(Door):
    """A `FakeBlk` in process. `device` is what a test of faults turns the switches of."""

    can = frozenset(field.name for field in fields(Wants))
    more_features = 0

    def __init__(self) -> None:
        self.hal = FakeHal()
        self.disk: VirtioBlk | None = None

    def make(self, size: int, wants: Wants) -> None:
        features = MODERN | BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX | self.more_features
        features |= BlkFeature.FLUSH if wants.flush else 0
        features |= BlkFeature.RO if wants.read_only else 0
        features |= BlkFeature.SIZE_MAX if wants.size_max else 0
        self.device = FakeBlk(
            self.hal,
            size,
            features=features,
            queue_size=wants.queue_size,
            block_size=wants.block_size,
            serial=wants.serial,
            size_max=wants.size_max,
            seg_max=wants.seg_max,
        )

    def reopen(self) -> VirtioBlk:
        """A machine's Hal lives as long as its driver, and so does the fake one."""
        self.hal = self.device.hal = FakeHal()
        self.disk = VirtioBlk(self.transport(), self.hal, request_seconds=REQUEST_SECONDS)
        return self.disk

    def transport(self) -> Transport:
        return FakeTransport(self.device)

    def backing(self, offset: int, length: int) -> bytes:
        return bytes(self.device.data[offset : offset + length])

    def close(self) -> None:
        if self.disk is not None:
            self.disk.close()
        assert self.hal.leaks() == []


class PciDoor(FakeDoor):
    """The real PCI transport, over the registers of a fake function."""

    common_length = 64
    multiplier = 4

    def transport(self) -> Transport:
        self.function = FakePciFunction(self.device, common_length=self.common_length, multiplier=self.multiplier)
        self.hal.regions[self.function.address] = self.function.region
        return PciTransport(self.hal, ConfigSpace(self.function.config), self.function.bars)


class OldPciDoor(PciDoor):
    """A device of VIRTIO 1.0: a short common configuration, and one doorbell for all queues."""

    common_length = 56
    multiplier = 0


class PciLegacyDoor(FakeDoor):
    """The legacy interface of a function that has no other."""

    more_features = Feature.ANY_LAYOUT

    def transport(self) -> Transport:
        function = FakePciLegacyFunction(self.device)
        self.hal.ports[function.port] = function.ports
        return PciLegacyTransport(self.hal, ConfigSpace(function.config), function.bars)


class MmioDoor(FakeDoor):
    """The real MMIO transport, over the registers of a fake device."""

    version = 2

    def transport(self) -> Transport:
        bank = FakeMmioDevice(self.device, self.version, config=BlkConfig)
        self.hal.regions[bank.address] = bank.region
        return MmioTransport(self.hal, bank.address)


class MmioLegacyDoor(MmioDoor):
    """Version 1 of the registers."""

    version = 1
    more_features = Feature.ANY_LAYOUT


class PciTransitionalDoor(FakeDoor):
    """A function with both interfaces, driven through the modern one."""

    more_features = Feature.ANY_LAYOUT

    def transport(self) -> Transport:
        function = FakePciFunction(self.device, transitional=True, msix_vectors=3)
        self.hal.regions[function.address] = function.region
        self.hal.ports[function.port] = function.ports
        return self.choose(ConfigSpace(function.config), function.bars)

    def choose(self, config: ConfigSpace, bars: dict[int, BarInfo]) -> Transport:
        return PciTransport(self.hal, config, bars)


class PciTransitionalLegacyDoor(PciTransitionalDoor):
    """The same function, driven through the legacy interface."""

    def choose(self, config: ConfigSpace, bars: dict[int, BarInfo]) -> Transport:
        return PciLegacyTransport(self.hal, config, bars)


DOORS: dict[str, Callable[[], Door]] = {
    "fake": FakeDoor,
    "mmio-1": MmioLegacyDoor,
    "mmio-2": MmioDoor,
    "pci": PciDoor,
    "pci-1.0": OldPciDoor,
    "pci-legacy": PciLegacyDoor,
    "pci-transitional": PciTransitionalDoor,
    "pci-transitional-legacy": PciTransitionalLegacyDoor,
    "svirtb": SvirtbDoor,
}
for _name, _door in DOORS.items():
    _door.name = _name  # type: ignore[attr-defined]
