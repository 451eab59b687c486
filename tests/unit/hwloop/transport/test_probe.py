"""Which transport a function gets, and that what is not virtio gets none."""

from __future__ import annotations

import pytest

from hwloop.errors import TransportError
from hwloop.hal.devmem import NothingAnswers
from hwloop.hal.fake import FakeHal
from hwloop.spec import DeviceType
from hwloop.transport.fake_device import MODERN, FakeDevice
from hwloop.transport.fake_pci import FakePciFunction
from hwloop.transport.fake_pci_legacy import FakePciLegacyFunction
from hwloop.transport.pci_legacy import PciLegacyTransport
from hwloop.transport.pci_modern import PciTransport
from hwloop.transport.probe import probe_mmio_device, probe_pci_device
from mmio import Region
from pci import BytesRootAccess, DeviceFunction, DeviceFunctionInfo, PciRoot, new_function

PLACE = DeviceFunction(0, 5, 0)
Function = FakePciFunction | FakePciLegacyFunction


class Bus:
    """One function behind a root complex, and what a walk over the bus says of it."""

    def __init__(self, kind: str, device_type: DeviceType = DeviceType.Block) -> None:
        self.hal = FakeHal()
        self.device = FakeDevice(self.hal, device_type, MODERN, [64], bytes(60))
        self.function = self._make(kind)
        self.root = PciRoot(BytesRootAccess({PLACE: self.function.config}))

    def _make(self, kind: str) -> Function:
        if kind == "legacy":
            function = FakePciLegacyFunction(self.device, msix_vectors=2)
            self.hal.ports[function.port] = function.ports
            return function
        modern = FakePciFunction(self.device, transitional=kind == "transitional")
        self.hal.regions[modern.address] = modern.region
        return modern

    def info(self) -> DeviceFunctionInfo:
        return next(iter(self.root.enumerate_bus(0)))[1]


@pytest.mark.parametrize(
    ("kind", "transport"), [("modern", PciTransport), ("transitional", PciTransport), ("legacy", PciLegacyTransport)]
)
def test_a_function_gets_the_modern_transport_where_it_can_be_had(kind: str, transport: type) -> None:
    bus = Bus(kind, DeviceType.Network)
    found = probe_pci_device(bus.hal, bus.root, PLACE, bus.info())
    assert found is not None
    assert found[0] == DeviceType.Network == found[1].device_type()
    assert type(found[1]) is transport
    assert int(found[1].get_status()) == 0


@pytest.mark.parametrize(
    ("vendor", "device"), [(0x8086, 0x1042), (0x1AF4, 0x0FFF), (0x1AF4, 0x1080), (0x1AF4, 0x1040), (0x1AF4, 0x1037)]
)
def test_what_is_not_a_virtio_device_of_a_known_type_gives_nothing_and_is_not_written(vendor: int, device: int) -> None:
    plain = new_function(vendor, device)
    root = PciRoot(BytesRootAccess({PLACE: plain}))
    info = next(iter(root.enumerate_bus(0)))[1]
    assert probe_pci_device(FakeHal(), root, PLACE, info) is None
    assert plain.writes == []


def test_a_function_that_has_gone_since_it_was_found_gives_nothing() -> None:
    bus = Bus("modern")
    info = bus.info()
    bus.device.faults.gone = True
    assert probe_pci_device(bus.hal, bus.root, PLACE, info) is None


def test_an_empty_slot_gives_nothing() -> None:
    bus = Bus("modern")
    assert probe_pci_device(bus.hal, bus.root, DeviceFunction(0, 6, 0), bus.info()) is None


def test_a_virtio_function_without_its_structures_is_an_error() -> None:
    bus = Bus("modern")
    bus.function.config.data[0x34] = 0
    with pytest.raises(TransportError, match="no COMMON_CFG capability"):
        probe_pci_device(bus.hal, bus.root, PLACE, bus.info())


@pytest.mark.parametrize("kind", ["modern", "transitional", "legacy"])
def test_a_virtio_function_with_a_broken_list_of_capabilities_is_an_error(kind: str) -> None:
    bus = Bus(kind)
    first = bus.function.config.data[0x34]
    bus.function.config.poke(first + 1, bytes([first]))
    with pytest.raises(TransportError, match="leads back to where the walk has been"):
        probe_pci_device(bus.hal, bus.root, PLACE, bus.info())


def test_an_address_that_is_a_bus_error_has_no_device() -> None:
    class Board(FakeHal):
        def mmio_phys_to_virt(self, paddr: int, size: int, *, hot: bool = False) -> Region:
            raise NothingAnswers("reading it is a bus error")

    assert probe_mmio_device(Board(), 0xFEB02E00, 0x200) is None
