"""A machine without a guest: nobody has set up its PCI bus or found its devices, so we do both, and reach a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from hwloop.errors import InvalidParam, Unsupported
from hwloop.hal.base import Hal
from hwloop.hal.qtest import QtestHal
from hwloop.hal.qtest_interrupt import Wiring
from hwloop.qtest.machine import PciHost, Slots
from hwloop.qtest.qemu import Machine
from hwloop.qtest.region import QtestMemory, QtestPorts
from hwloop.spec import is_virtio_pci_id
from hwloop.transport import Transport
from hwloop.transport.mmio import MmioTransport
from hwloop.transport.mmio_registers import MAGIC, SLOT_SIZE, VirtIOHeader
from hwloop.transport.pci_legacy import PciLegacyTransport
from hwloop.transport.pci_modern import PciTransport
from hwloop.transport.probe import open_pci
from pci import (
    AddressWindow,
    AddressWindows,
    BarInfo,
    Cam,
    CamAccess,
    DeviceFunction,
    HeaderType,
    PciError,
    PciRoot,
    PortAccess,
    allocate_bus,
    number_buses,
    read_bus_numbers,
)
from pci.port import CONFIG_PORT

_PORTS = 8


def reach(
    machine: Machine,
    mode: str | None = None,
    place: str | None = None,
    *,
    filtered: Callable[[Hal], Hal] = lambda hal: hal,
) -> tuple[Transport, Hal]:
    """The transport and the Hal of a virtio device of a machine; both are the caller's to close.

    `mode` is `modern` or `legacy`, for a transitional PCI function; `place` the address of a PCI function (`00:02.0`)
    or the number of a slot, None the first device there is; `filtered` puts
    filters in front of the Hal. BARs that have addresses keep them. Raises Unsupported when
    there is no such device, TransportError, QtestError, DeviceLost, DeadlineExpired.
    """
    transport: Transport
    with ExitStack() as stack:
        if machine.type.pci is not None:
            host = machine.type.pci
            hal = QtestHal(machine.qtest, machine.ram, _intx(machine, host), ports_at=host.ports_at)
            stack.push(hal)
            seen = filtered(hal)
            transport = _reach_function(machine, host, hal, seen, mode, place)
        else:
            assert machine.type.slots is not None
            address = find_slot(machine, machine.type.slots, place)
            hal = QtestHal(machine.qtest, machine.ram, _line(machine, machine.type.slots, address))
            stack.push(hal)
            seen = filtered(hal)
            transport = MmioTransport(seen, address)
        stack.pop_all()
    return transport, seen


def pci_root(machine: Machine) -> PciRoot:
    """The PCI bus of a machine, through its configuration memory or the two ports that every PC has."""
    ecam = machine.type.pci.ecam if machine.type.pci is not None else None
    if ecam is not None:
        return PciRoot(CamAccess(QtestMemory(machine.qtest, ecam.start, len(ecam)), Cam.Ecam))
    return PciRoot(PortAccess(QtestPorts(machine.qtest, CONFIG_PORT, _PORTS)))


def find_function(root: PciRoot, place: str | None = None) -> DeviceFunction:
    """The virtio function at an address, or the first there is. Raises Unsupported, InvalidParam."""
    wanted = _function(place) if place is not None else None
    for function, info in root.enumerate_bus(0, recursive=True):
        if is_virtio_pci_id(info.vendor_id, info.device_id) and wanted in (None, function):
            return function
    raise Unsupported(f"the machine has no virtio function{f' at {place}' if place else ''}")


def bars_of(root: PciRoot, function: DeviceFunction, host: PciHost) -> Mapping[int, BarInfo]:
    """What a function decodes: where it was put before, or else where there is room now.

    All functions get their addresses at once, with the first: one that came later would not know which are taken.
    Raises pci.AllocationError when there is no room.
    """
    bars = root.bars(function)
    if not bars or any(bar.address for bar in bars.values()):
        return bars
    return allocate_bus(root, 0, _windows(host))[function]


def number_new_buses(root: PciRoot) -> None:
    """Give the buses behind bridges their numbers, unless somebody has: a firmware, or we for another device."""
    bridges = [function for function, info in root.enumerate_bus(0) if info.header_type is HeaderType.PciPciBridge]
    if bridges and not any(read_bus_numbers(root.config(bridge)).assigned for bridge in bridges):
        number_buses(root)


def find_slot(machine: Machine, slots: Slots, place: str | None = None) -> int:
    """The address of the slot of that number, or of the first that has a device. Raises Unsupported, InvalidParam."""
    if place is not None:
        return _slot(slots, place)
    # QEMU fills them from the last one on.
    for address in reversed(slots.addresses()):
        header = VirtIOHeader(QtestMemory(machine.qtest, address, SLOT_SIZE))
        if header.magic_value.read() == MAGIC and header.device_id.read():
            return address
    raise Unsupported(f"none of the {slots.count} virtio-mmio slots of the {machine.type.name} has a device")


def _reach_function(
    machine: Machine, host: PciHost, hal: QtestHal, seen: Hal, mode: str | None, place: str | None
) -> PciTransport | PciLegacyTransport:
    root = pci_root(machine)
    number_new_buses(root)
    function = find_function(root, place)
    config, bars = root.config(function), bars_of(root, function, host)
    hal.use_function(config, bars)
    if mode is None:
        return open_pci(seen, config, bars)
    return (PciLegacyTransport if mode == "legacy" else PciTransport)(seen, config, bars)


def _windows(host: PciHost) -> AddressWindows:
    memory, io = (AddressWindow(part.start, len(part)) for part in (host.memory, host.io))
    return AddressWindows(memory=memory, io=io)


def _intx(machine: Machine, host: PciHost) -> Wiring:
    def find() -> str:
        return host.controller if host.controller_has_name else machine.find_controller(host.controller, 0)

    return Wiring("intx", find, host.lines)


def _line(machine: Machine, slots: Slots, address: int) -> Wiring:
    return Wiring(
        "mmio",
        lambda: machine.find_controller(slots.controller, slots.controller_index),
        frozenset({slots.line(address)}),
    )


def _function(text: str) -> DeviceFunction:
    try:
        return DeviceFunction.parse(text)
    except PciError:
        raise InvalidParam(f"{text!r} is no PCI function", remedy="give one like 00:02.0") from None


def _slot(slots: Slots, text: str) -> int:
    if not text.isdecimal() or int(text) >= slots.count:
        raise InvalidParam(f"there is no slot {text!r}", remedy=f"give a number from 0 to {slots.count - 1}")
    return slots.addresses()[int(text)]
