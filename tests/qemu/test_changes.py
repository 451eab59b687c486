"""Devices that change, come and go while we drive them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwloop.deadline import wait_until
from hwloop.device.blk import VirtioBlk
from hwloop.door import guestless
from hwloop.door.qemu import QemuPlace
from hwloop.errors import DeviceLost
from hwloop.hal.qtest import QtestHal
from hwloop.qtest.machine import MACHINES
from hwloop.qtest.qemu import QemuMachine
from hwloop.spec import InterruptStatus, is_virtio_pci_id
from hwloop.transport.pci_modern import PciTransport
from pci import (
    AddressWindow,
    AddressWindows,
    CapabilityId,
    ConfigSpace,
    DeviceFunction,
    Space,
    allocate_bars,
    allocate_bus,
    number_buses,
    read_windows,
)
from tests.qemu.conftest import CONTENT
from tests.timing import SLACK

Start = Callable[..., tuple[QemuPlace, QemuMachine]]


@pytest.mark.fault(11)
@pytest.mark.parametrize("options", [{}, {"machine": "microvm"}, {"machine": "virt"}], ids=str)
def test_a_disk_that_grows_counts_its_configuration_and_interrupts(start: Start, options: dict[str, str]) -> None:
    place, machine = start(**options)
    opened = place.reach(machine)
    with opened, VirtioBlk(opened.transport, opened.hal) as disk:
        before = opened.transport.read_config_generation()
        assert (disk.capacity(), opened.transport.ack_interrupt()) == (2048, 0)
        machine.qmp.execute("block_resize", {"node-name": "disk0"}, size=4 << 20)
        assert opened.transport.read_config_generation() != before
        assert opened.transport.read_config_space(0, 8) == 8192
        assert opened.transport.ack_interrupt() & InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT
    again = place.reach(machine)
    with again, VirtioBlk(again.transport, again.hal) as disk:
        assert disk.capacity() == 8192
        disk.write(8191, b"L" * 512)
        assert disk.read(8191, 512) == b"L" * 512


def test_a_device_is_driven_again_after_its_driver_was_closed(start: Start) -> None:
    place, machine = start()
    for number in range(3):
        opened = place.reach(machine)
        with opened, VirtioBlk(opened.transport, opened.hal) as disk:
            assert disk.read(0, 512) == CONTENT, number


# --- Hot-plug ---------------------------------------------------------------------------------------------------------

PORT = DeviceFunction(0, 3, 0)
BEHIND = DeviceFunction(1, 0, 0)
SLOT_CONTROL, SLOT_STATUS = 0x18, 0x1A
ATTENTION_BUTTON_PRESSED, PRESENCE_CHANGED = 1 << 0, 1 << 3
POWER_OFF = 1 << 10
INDICATOR, INDICATOR_ON, INDICATOR_OFF = 0x300, 0x100, 0x300


class Slot:
    """The slot behind a root port of PCI Express, and what an operating system does with it (PCI Express 4.0, 6.7)."""

    def __init__(self, machine: QemuMachine) -> None:
        self.machine = machine
        self.root = guestless.pci_root(machine)
        number_buses(self.root)
        memory, io = AddressWindow(0xE000_0000, 0x1000_0000), AddressWindow(0xC000, 0x4000)
        self.windows = AddressWindows(memory=memory, io=io)
        allocate_bus(self.root, 0, self.windows, reserve=4 << 20)
        self.port: ConfigSpace = self.root.config(PORT)
        found = self.port.find_capability(CapabilityId.PCI_EXPRESS)
        assert found is not None
        self.express = found.offset

    def read_status(self) -> int:
        return self.port.read16(self.express + SLOT_STATUS)

    def acknowledge(self) -> int:
        """What has happened since the last time; ones clear it."""
        status = self.read_status()
        self.port.write16(self.express + SLOT_STATUS, status)
        return status

    def power(self, on: bool) -> None:
        control = self.port.read16(self.express + SLOT_CONTROL) & ~(POWER_OFF | INDICATOR)
        control |= INDICATOR_ON if on else POWER_OFF | INDICATOR_OFF
        self.port.write16(self.express + SLOT_CONTROL, control)

    def functions(self) -> list[DeviceFunction]:
        return [
            function
            for function, info in self.root.enumerate_bus(BEHIND.bus)
            if is_virtio_pci_id(info.vendor_id, info.device_id)
        ]


@pytest.fixture
def slot(image: Path) -> Iterator[Slot]:
    arguments = [
        # Or plugging would go through ACPI, and the port would show nothing.
        "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
        "-blockdev", f"driver=file,filename={image},node-name=disk0",
        "-device", "pcie-root-port,id=rp0,bus=pcie.0,addr=3,chassis=1,slot=1",
    ]  # fmt: skip
    with QemuMachine(MACHINES["q35"], arguments) as machine:
        yield Slot(machine)


def plug(slot: Slot) -> None:
    slot.machine.qmp.execute("device_add", driver="virtio-blk-pci", drive="disk0", id="plugged", bus="rp0")
    assert slot.acknowledge() & PRESENCE_CHANGED
    slot.power(True)


def unplug(slot: Slot) -> None:
    slot.machine.qmp.execute("device_del", id="plugged")
    wait_until(lambda: bool(slot.read_status() & ATTENTION_BUTTON_PRESSED), "the attention button", 5)
    slot.acknowledge()
    slot.power(False)
    # The part of it that is on the bus inside goes first, and has no name.
    while slot.machine.qmp.wait_event("DEVICE_DELETED")["data"].get("device") != "plugged":
        pass


def open_behind(slot: Slot) -> tuple[PciTransport, QtestHal]:
    """Places the BARs in the window of the port."""
    windows = AddressWindows(memory=read_windows(slot.port)[Space.MEMORY])
    bars = allocate_bars(slot.root, BEHIND, windows)
    hal = QtestHal(slot.machine.qtest, slot.machine.ram)
    return PciTransport(hal, slot.root.config(BEHIND), bars), hal


def test_a_disk_is_plugged_in_driven_and_unplugged(slot: Slot) -> None:
    assert slot.functions() == []
    plug(slot)
    assert slot.functions() == [BEHIND]
    transport, hal = open_behind(slot)
    with VirtioBlk(transport, hal) as disk:
        assert disk.read(0, 512) == CONTENT
    unplug(slot)
    assert slot.functions() == []


@pytest.mark.fault(8)
def test_a_disk_that_is_unplugged_while_it_is_driven_is_lost_and_can_be_closed(slot: Slot) -> None:
    plug(slot)
    transport, hal = open_behind(slot)
    disk = VirtioBlk(transport, hal, request_seconds=60)
    assert disk.read(0, 512) == CONTENT
    unplug(slot)
    before = time.monotonic()
    with pytest.raises(DeviceLost):
        disk.read(0, 512)
    assert time.monotonic() - before < SLACK
    disk.close()
