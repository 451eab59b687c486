"""The registers of seed 003, access by access: `VirtioPciTransport`, its constants, and `VirtioTransport` over both."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from cython_ring import split_layout
from hwloop.hal.base import BufferDirection
from hwloop.hal.fake import FakeHal
from hwloop.spec import BlkFeature, DeviceStatus, DeviceType
from hwloop.transport.fake_device import FakeDevice
from hwloop.transport.fake_pci_legacy import FakePciLegacyFunction
from hwloop.transport.mmio_registers import VirtioMmioTransport
from hwloop.transport.pci_legacy import PciLegacyTransport
from hwloop.transport.pci_registers import LegacyRegisters, VirtioPciTransport, regs, status
from hwloop.transport.unified import Mmio, Pci, VirtioTransport
from mmio import FakeRegion, LoggingRegion
from pci import Command, ConfigSpace

IO_BASE = 0xC000


def plain(size: int = 64) -> tuple[VirtioPciTransport, FakeRegion, LoggingRegion]:
    """The registers over bytes that keep what is written, and the log of the ports."""
    memory = FakeRegion(size)
    bus = LoggingRegion(memory)
    return VirtioPciTransport(bus, IO_BASE), memory, bus


def taken(bus: LoggingRegion) -> list[tuple[str, int, int, int]]:
    log = [(access.op, access.offset, access.width, access.value) for access in bus.log]
    bus.log.clear()
    return log


# --- The tables -------------------------------------------------------------------------------------------------------


def test_the_offsets_are_those_of_the_seed() -> None:
    assert {name: int(member) for name, member in regs.__members__.items()} == {
        "DEVICE_FEATURES": 0x00,
        "GUEST_FEATURES": 0x04,
        "QUEUE_ADDRESS": 0x08,
        "QUEUE_SIZE": 0x0C,
        "QUEUE_SELECT": 0x0E,
        "QUEUE_NOTIFY": 0x10,
        "DEVICE_STATUS": 0x12,
        "ISR_STATUS": 0x13,
        "DEVICE_CONFIG": 0x14,
        "DEVICE_CONFIG_MSIX": 0x18,
    }


def test_the_registers_have_the_widths_and_directions_of_the_seed() -> None:
    found = {r.name: (r.width, r.readable, r.writable) for r in LegacyRegisters.registers()}
    assert found == {
        "device_features": (4, True, False),
        "guest_features": (4, True, True),
        "queue_address": (4, True, True),
        "queue_size": (2, True, False),
        "queue_select": (2, True, True),
        "queue_notify": (2, False, True),
        "device_status": (1, True, True),
        "isr_status": (1, True, False),
    }


def test_the_status_bits_are_those_of_the_seed() -> None:
    bits = (status.ACKNOWLEDGE, status.DRIVER, status.DRIVER_OK, status.FEATURES_OK)
    assert [int(bit) for bit in bits] == [1, 2, 4, 8]
    assert [int(bit) for bit in (status.DEVICE_NEEDS_RESET, status.FAILED)] == [64, 128]


# --- One method, one access -------------------------------------------------------------------------------------------

Use = Callable[[VirtioPciTransport], object]


@pytest.mark.parametrize(
    ("use", "access"),
    [
        (lambda r: r.read_device_features(), ("read", 0x00, 4)),
        (lambda r: r.write_guest_features(0x0102_0304), ("write", 0x04, 4)),
        (lambda r: r.read_queue_address(), ("read", 0x08, 4)),
        (lambda r: r.write_queue_address(0xFFFF_FFFF), ("write", 0x08, 4)),
        (lambda r: r.read_queue_size(), ("read", 0x0C, 2)),
        (lambda r: r.select_queue(0xFFFF), ("write", 0x0E, 2)),
        (lambda r: r.notify_queue(1), ("write", 0x10, 2)),
        (lambda r: r.read_status(), ("read", 0x12, 1)),
        (lambda r: r.write_status(1), ("write", 0x12, 1)),
        (lambda r: r.read_isr(), ("read", 0x13, 1)),
        (lambda r: r.read_device_config_u8(3), ("read", 0x17, 1)),
        (lambda r: r.read_device_config_u32(8), ("read", 0x1C, 4)),
        (lambda r: r.reset(), ("write", 0x12, 1)),
        (lambda r: r.read8(0x21), ("read", 0x21, 1)),
        (lambda r: r.write8(0x21, 1), ("write", 0x21, 1)),
        (lambda r: r.read16(0x22), ("read", 0x22, 2)),
        (lambda r: r.write16(0x22, 1), ("write", 0x22, 2)),
        (lambda r: r.read32(0x24), ("read", 0x24, 4)),
        (lambda r: r.write32(0x24, 1), ("write", 0x24, 4)),
    ],
)
def test_each_method_is_one_access_of_the_registers_width(use: Use, access: tuple[str, int, int]) -> None:
    registers, _, bus = plain()
    use(registers)
    assert [found[:3] for found in taken(bus)] == [access]


def test_values_go_through_unchanged() -> None:
    registers, memory, bus = plain()
    memory.poke(0x00, 4, 0x8765_4321)
    memory.poke(0x0C, 2, 256)
    assert (registers.read_device_features(), registers.read_queue_size()) == (0x8765_4321, 256)
    taken(bus)
    registers.write_queue_address(0xFFFF_FFFE)
    registers.notify_queue(7)
    assert taken(bus) == [("write", 0x08, 4, 0xFFFF_FFFE), ("write", 0x10, 2, 7)]
    assert registers.read_queue_address() == 0xFFFF_FFFE


def test_64_bits_of_configuration_are_two_reads_of_32_low_first() -> None:
    registers, memory, bus = plain()
    memory.poke(0x14, 8, 0x1122_3344_5566_7788)
    assert registers.read_device_config_u64(0) == 0x1122_3344_5566_7788
    assert taken(bus) == [("read", 0x14, 4, 0x5566_7788), ("read", 0x18, 4, 0x1122_3344)]


def test_the_configuration_moves_by_4_bytes_while_msix_is_on() -> None:
    registers, memory, _ = plain()
    memory.poke(0x18, 8, 0xAABB)
    registers.config_base = regs.DEVICE_CONFIG_MSIX
    assert registers.read_device_config_u64(0) == 0xAABB
    assert registers.read_device_config_u8(1) == 0xAA


# --- Initialisation ---------------------------------------------------------------------------------------------------


def test_begin_init_is_three_writes_of_the_status() -> None:
    registers, _, bus = plain()
    registers.begin_init()
    assert taken(bus) == [("write", 0x12, 1, 0), ("write", 0x12, 1, 1), ("write", 0x12, 1, 3)]


@pytest.mark.parametrize(("kept", "accepted"), [(0x0B, True), (0x03, False)])
def test_set_features_ok_reads_changes_writes_and_reads_again(kept: int, accepted: bool) -> None:
    registers, memory, bus = plain()
    memory.poke(0x12, 1, 3)
    memory.hook(0x12, on_write=lambda offset, width, value: kept)
    assert registers.set_features_ok() is accepted
    assert taken(bus) == [("read", 0x12, 1, 3), ("write", 0x12, 1, 0x0B), ("read", 0x12, 1, kept)]


@pytest.mark.parametrize(("set_bit", "bit"), [("set_driver_ok", 4), ("set_failed", 128)])
def test_the_other_bits_are_added_to_what_is_there(set_bit: str, bit: int) -> None:
    registers, memory, bus = plain()
    memory.poke(0x12, 1, 3)
    getattr(registers, set_bit)()
    assert taken(bus) == [("read", 0x12, 1, 3), ("write", 0x12, 1, 3 | bit)]


def test_reading_the_isr_clears_it() -> None:
    device = FakeDevice(FakeHal(), DeviceType.Block, 0, [8], bytes(8))
    function = FakePciLegacyFunction(device)
    function.config.write(4, 2, int(Command.IO_SPACE))
    device.status = DeviceStatus(7)
    device.config_changed()
    registers = VirtioPciTransport(function.ports, function.port)
    assert [registers.read_isr(), registers.read_isr()] == [2, 0]


def test_new_takes_the_ports_from_the_hal_and_a_copy_reaches_the_same() -> None:
    hal = FakeHal()
    hal.ports[IO_BASE] = memory = FakeRegion(32)
    registers = VirtioPciTransport.new(hal, IO_BASE, 32)
    assert registers.io_base() == IO_BASE
    copy.copy(registers).write_status(5)
    assert memory.peek(0x12, 1) == 5


def test_the_transport_of_drivers_uses_these_registers() -> None:
    hal = FakeHal()
    function = FakePciLegacyFunction(FakeDevice(hal, DeviceType.Block, 0, [8], bytes(8)))
    hal.ports[function.port] = function.ports
    transport = PciLegacyTransport(hal, ConfigSpace(function.config), function.bars)
    assert isinstance(transport.registers, VirtioPciTransport)
    assert transport.registers.io_base() == function.port


# --- Either bus -------------------------------------------------------------------------------------------------------


def test_a_legacy_device_is_brought_up_by_hand_through_the_unified_steps() -> None:
    """The order of seed 003, on a device that is strict about it; FEATURES_OK is not a legacy device's (3.1.2)."""
    hal = FakeHal()
    device = FakeDevice(hal, DeviceType.Block, BlkFeature.FLUSH, [64], (2048).to_bytes(8, "little"))
    function = FakePciLegacyFunction(device)
    function.config.write(4, 2, int(Command.IO_SPACE | Command.BUS_MASTER))
    by_hand: VirtioTransport = Pci(VirtioPciTransport(function.ports, function.port))
    by_hand.begin_init()
    by_hand.write_guest_features(by_hand.read_device_features())
    by_hand.select_queue(0)
    layout = split_layout(by_hand.read_queue_size(), align=4096)
    pages = -(-(layout.used_offset + layout.used_bytes) // 4096)
    address, _ = hal.dma_alloc(pages, BufferDirection.Both)
    by_hand.write_queue_size(64)
    by_hand.write_queue_address(address // 4096)
    by_hand.write_queue_phys(1, 2, 3)
    by_hand.set_queue_ready()
    by_hand.set_driver_ok()
    by_hand.notify_queue(0)
    assert device.queues[0].enabled
    assert int(device.status) == 7
    assert device.driver_features == BlkFeature.FLUSH
    assert by_hand.read_device_config_u64(0) == 2048


Step = Callable[[VirtioTransport], object]

STEPS: list[tuple[Step, list[tuple[str, int, int]], list[tuple[str, int, int]]]] = [
    (lambda t: t.begin_init(), [("write", 0x12, 1)] * 3, [("write", 0x70, 4)] * 3),
    (lambda t: t.read_device_features(), [("read", 0x00, 4)], [("write", 0x14, 4), ("read", 0x10, 4)]),
    (lambda t: t.write_guest_features(1), [("write", 0x04, 4)], [("write", 0x24, 4), ("write", 0x20, 4)]),
    (
        lambda t: t.set_features_ok(),
        [("read", 0x12, 1), ("write", 0x12, 1), ("read", 0x12, 1)],
        [("read", 0x70, 4), ("write", 0x70, 4), ("read", 0x70, 4)],
    ),
    (lambda t: t.select_queue(1), [("write", 0x0E, 2)], [("write", 0x30, 4)]),
    (lambda t: t.read_queue_size(), [("read", 0x0C, 2)], [("read", 0x34, 4)]),
    (lambda t: t.write_queue_size(8), [], [("write", 0x38, 4)]),
    (lambda t: t.write_queue_address(1), [("write", 0x08, 4)], []),
    (
        lambda t: t.write_queue_phys(1, 2, 3),
        [],
        [("write", offset, 4) for offset in (0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4)],
    ),
    (lambda t: t.set_queue_ready(), [], [("write", 0x44, 4)]),
    (lambda t: t.set_driver_ok(), [("read", 0x12, 1), ("write", 0x12, 1)], [("read", 0x70, 4), ("write", 0x70, 4)]),
    (lambda t: t.notify_queue(1), [("write", 0x10, 2)], [("write", 0x50, 4)]),
    (
        lambda t: t.read_device_config_u64(8),
        [("read", 0x1C, 4), ("read", 0x20, 4)],
        [("read", 0x108, 4), ("read", 0x10C, 4)],
    ),
]


@pytest.mark.parametrize(("step", "on_pci", "on_mmio"), STEPS)
def test_each_step_has_its_accesses_on_either_bus(
    step: Step, on_pci: list[tuple[str, int, int]], on_mmio: list[tuple[str, int, int]]
) -> None:
    for kind, expected in ((Pci, on_pci), (Mmio, on_mmio)):
        bus = LoggingRegion(FakeRegion(0x200))
        step(_over(kind, bus))
        assert [found[:3] for found in taken(bus)] == expected


def _over(kind: type[VirtioTransport], bus: LoggingRegion) -> VirtioTransport:
    if kind is Pci:
        return Pci(VirtioPciTransport(bus, IO_BASE))
    return Mmio(VirtioMmioTransport(bus))


def test_a_copy_is_equal_and_reaches_the_same_registers() -> None:
    bus = LoggingRegion(FakeRegion(0x200))
    transport = Pci(VirtioPciTransport(bus, IO_BASE))
    again = copy.copy(transport)
    assert again == transport
    again.notify_queue(3)
    assert taken(bus) == [("write", 0x10, 2, 3)]
