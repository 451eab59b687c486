"""A q35 with bridges of three kinds that nobody has set up: numbered, walked, given addresses, and its disks driven."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from hwloop.device.blk import VirtioBlk
from hwloop.door.guestless import pci_root, reach
from hwloop.hal.qtest import QtestHal
from hwloop.qtest.machine import MACHINES
from hwloop.qtest.qemu import QemuMachine
from hwloop.qtest.region import QtestMemory
from hwloop.spec import DeviceType
from hwloop.transport.pci_legacy import PciLegacyTransport
from hwloop.transport.probe import probe_pci_device
from pci import (
    AddressWindow,
    AddressWindows,
    AllocationError,
    BusNumbers,
    Cam,
    CamAccess,
    Command,
    DeviceFunction,
    HeaderType,
    IoBar,
    MemoryBar,
    PciRoot,
    Space,
    allocate_bus,
    number_buses,
    read_bus_numbers,
    read_windows,
)
from tests.qemu.conftest import CONTENT

F = DeviceFunction.parse

TREE = (
    # A root port, a bridge to conventional PCI, a transitional disk.
    "pcie-root-port,id=rp1,bus=pcie.0,addr=03.0,chassis=1",
    "pcie-pci-bridge,id=conventional,bus=rp1",
    "virtio-blk-pci,drive=near,bus=conventional,addr=05.0,disable-legacy=off,disable-modern=off",
    # A root port, a switch with two ports, a modern disk and a source of entropy.
    "pcie-root-port,id=rp2,bus=pcie.0,addr=04.0,chassis=2",
    "x3130-upstream,id=up,bus=rp2",
    "xio3130-downstream,id=down1,bus=up,addr=00.0,chassis=3",
    "xio3130-downstream,id=down2,bus=up,addr=01.0,chassis=4",
    "virtio-blk-pci,drive=far,bus=down1,disable-legacy=on",
    "virtio-rng-pci,bus=down2",
    # A root port with nothing behind it.
    "pcie-root-port,id=rp3,bus=pcie.0,addr=05.0,chassis=5",
)
NEAR, FAR, RNG, EMPTY = F("02:05.0"), F("05:00.0"), F("06:00.0"), F("00:05.0")
FOUND = [
    "00:00.0",  # the host bridge
    *("00:03.0", "01:00.0", "02:05.0"),
    *("00:04.0", "03:00.0", "04:00.0", "05:00.0", "04:01.0", "06:00.0"),
    "00:05.0",
    "00:1f.0",  # the ISA bridge
]
ECAM = 0xB000_0000
_PCIEXBAR = 0x60


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[QemuMachine]:
    arguments: list[str] = []
    for name in ("near", "far"):
        path = tmp_path / f"{name}.img"
        path.write_bytes(CONTENT * 64)
        arguments += ["-blockdev", f"driver=file,node-name={name},filename={path}"]
    for device in TREE:
        arguments += ["-device", device]
    with QemuMachine(MACHINES["q35"], arguments) as started:
        yield started


def by_ports(machine: QemuMachine) -> PciRoot:
    return pci_root(machine)


def by_ecam(machine: QemuMachine) -> PciRoot:
    """The host bridge is told where the region is, and that it is on."""
    host = pci_root(machine).config(F("00:00.0"))
    host.write32(_PCIEXBAR + 4, 0)
    host.write32(_PCIEXBAR, ECAM | 1)
    return PciRoot(CamAccess(QtestMemory(machine.qtest, ECAM, Cam.Ecam.size), Cam.Ecam))


Way = Callable[[QemuMachine], PciRoot]
EVERY_WAY = pytest.mark.parametrize("way", [by_ports, by_ecam])


def windows(memory_size: int = 0x1E00_0000, *, high: bool = True) -> AddressWindows:
    return AddressWindows(
        AddressWindow(0xE000_0000, memory_size),
        AddressWindow(0x80_0000_0000, 1 << 32) if high else None,
        AddressWindow(0xC000, 0x4000),
    )


@EVERY_WAY
def test_every_function_behind_every_bridge_is_found_once_the_buses_have_numbers(
    machine: QemuMachine, way: Way
) -> None:
    root = way(machine)
    assert [function.short for function, _ in root.enumerate_bus(0, recursive=True) if function.bus] == []

    assert number_buses(root) == 7

    assert [function.short for function, _ in root.enumerate_bus(0, recursive=True)] == FOUND
    assert read_bus_numbers(root.config(F("00:04.0"))) == BusNumbers(0, 3, 6)
    assert read_bus_numbers(root.config(F("04:01.0"))) == BusNumbers(4, 6, 6)
    assert read_bus_numbers(root.config(EMPTY)) == BusNumbers(0, 7, 7)


def test_both_ways_reach_the_same_registers(machine: QemuMachine) -> None:
    ports, ecam = by_ports(machine), by_ecam(machine)
    number_buses(ports)
    for function, _ in ports.enumerate_bus(0, recursive=True):
        assert ports.config(function).read_raw() == ecam.config(function).read_raw(0x100), function
    assert list(ecam.config(F("00:03.0")).extended_capabilities()) != []
    assert list(ports.config(F("00:03.0")).extended_capabilities()) == []


@pytest.mark.parametrize("high", [True, False])
def test_every_bar_gets_an_address_that_its_bridges_pass_on(machine: QemuMachine, high: bool) -> None:
    root = by_ports(machine)
    number_buses(root)

    placed = allocate_bus(root, 0, windows(high=high), reserve=0x20_0000)

    spans = []
    for function, bars in placed.items():
        assert root.bars(function) == bars
        for bar in bars.values():
            assert bar.address % bar.size == 0
            spans.append((isinstance(bar, IoBar), bar.address, bar.address + bar.size))
    assert all(first[0] != second[0] or first[2] <= second[1] for first, second in pairwise(sorted(spans)))
    kinds = {index: type(bar) for index, bar in placed[NEAR].items()}
    assert kinds == {0: IoBar, 1: MemoryBar, 4: MemoryBar}
    assert (placed[FAR][4].address >= 1 << 32) is high
    assert read_windows(root.config(EMPTY))[Space.MEMORY].size == 0x20_0000


def test_bridges_are_bus_masters_and_decode_and_endpoints_are_left_to_their_drivers(machine: QemuMachine) -> None:
    root = by_ports(machine)
    number_buses(root)

    allocate_bus(root, 0, windows())

    for function, info in root.enumerate_bus(0, recursive=True):
        command = root.get_status_command(function)[1]
        if info.header_type is HeaderType.PciPciBridge:
            assert command & Command.BUS_MASTER
            assert command & Command.MEMORY_SPACE
    assert root.get_status_command(NEAR)[1] & 7 == Command.IO_SPACE | Command.MEMORY_SPACE
    assert root.get_status_command(FAR)[1] & 7 == Command.MEMORY_SPACE


def drive(machine: QemuMachine, root: PciRoot, function: DeviceFunction) -> None:
    """Read what the image has, write and read it back, through a transport that probing found."""
    info = root.config(function).read_info()
    with ExitStack() as stack:
        hal = stack.enter_context(QtestHal(machine.qtest, machine.ram))
        hal.use_function(root.config(function), root.bars(function))
        found = probe_pci_device(hal, root, function, info)
        assert found is not None
        assert found[0] == DeviceType.Block
        disk = stack.enter_context(VirtioBlk(stack.enter_context(found[1]), hal))
        assert disk.read(0, 512) == CONTENT
        disk.write(5, bytes([function.bus]) * 512)
        disk.flush()
        assert disk.read(5, 512) == bytes([function.bus]) * 512


@EVERY_WAY
@pytest.mark.parametrize("high", [True, False])
def test_disks_behind_two_and_three_bridges_are_driven(
    machine: QemuMachine, tmp_path: Path, way: Way, high: bool
) -> None:
    root = way(machine)
    number_buses(root)
    allocate_bus(root, 0, windows(high=high))

    drive(machine, root, NEAR)
    drive(machine, root, FAR)

    assert (tmp_path / "near.img").read_bytes()[5 * 512 : 6 * 512] == b"\x02" * 512
    assert (tmp_path / "far.img").read_bytes()[5 * 512 : 6 * 512] == b"\x05" * 512


def test_the_legacy_registers_of_a_disk_behind_two_bridges_are_reached(machine: QemuMachine) -> None:
    root = by_ports(machine)
    number_buses(root)
    allocate_bus(root, 0, windows())
    with QtestHal(machine.qtest, machine.ram) as hal:
        transport = PciLegacyTransport(hal, root.config(NEAR), root.bars(NEAR))
        with VirtioBlk(transport, hal) as disk:
            assert disk.read(63, 512) == CONTENT


def test_vectors_of_a_disk_behind_three_bridges_interrupt(machine: QemuMachine) -> None:
    root = by_ports(machine)
    number_buses(root)
    allocate_bus(root, 0, windows())
    with ExitStack() as stack:
        hal = stack.enter_context(QtestHal(machine.qtest, machine.ram))
        hal.use_function(root.config(FAR), root.bars(FAR))
        found = probe_pci_device(hal, root, FAR, root.config(FAR).read_info())
        assert found is not None
        transport, line = stack.enter_context(found[1]), hal.interrupt(1)
        assert line is not None
        transport.queue_vectors = {0: 1}
        disk = stack.enter_context(VirtioBlk(transport, hal))
        disk.virtqueues[0].use_interrupt(line)
        token = disk.submit_read(1, 512)
        assert line.wait(30)
        assert disk.complete(token) == CONTENT


def test_a_bus_without_room_is_left_as_it_was(machine: QemuMachine) -> None:
    root = by_ports(machine)
    number_buses(root)
    before = {function: root.config(function).read_raw() for function, _ in root.enumerate_bus(0, recursive=True)}

    with pytest.raises(AllocationError, match=r"00:0[34]\.0, memory window of 0x[0-9a-f]+ bytes: no aligned"):
        allocate_bus(root, 0, windows(memory_size=0x10_0000, high=False))

    assert {function: root.config(function).read_raw() for function in before} == before


def test_a_machine_that_was_set_up_is_set_up_again_to_the_same(machine: QemuMachine) -> None:
    root = by_ports(machine)
    number_buses(root)
    first = allocate_bus(root, 0, windows())

    number_buses(root)
    assert allocate_bus(root, 0, windows()) == first
    drive(machine, root, FAR)


def test_two_disks_of_one_machine_are_driven_at_once_wherever_they_are(machine: QemuMachine) -> None:
    with ExitStack() as stack:
        disks = []
        for place in ("05:00.0", "02:05.0"):
            transport, hal = reach(machine, None, place)
            stack.push(hal)
            stack.push(transport)
            disks.append(stack.enter_context(VirtioBlk(transport, hal)))
        for number, disk in enumerate(disks):
            disk.write(7, bytes([number]) * 512)
        assert [disk.read(7, 512) for disk in disks] == [bytes([number]) * 512 for number in range(2)]
