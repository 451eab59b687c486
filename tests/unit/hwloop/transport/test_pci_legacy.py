"""The legacy PCI transport: which ports it touches, how wide, and in which order; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cython_ring import split_layout
from hwloop.errors import (
    ConfigSpaceMissing,
    ConfigSpaceTooSmall,
    DeviceError,
    DeviceLost,
    DmaError,
    InvalidParam,
    TransportError,
    Unsupported,
)
from hwloop.hal.base import BufferDirection, Hal
from hwloop.hal.fake import FakeHal
from hwloop.queue import VirtQueue
from hwloop.spec import BlkFeature, DeviceStatus, DeviceType, Feature, InterruptStatus, PhysAddr
from hwloop.transport import TRANSPORTS
from hwloop.transport.fake_device import MODERN, FakeDevice, RuleBroken
from hwloop.transport.fake_pci import FakePciFunction
from hwloop.transport.fake_pci_legacy import FakePciLegacyFunction
from hwloop.transport.pci_legacy import PciLegacyTransport
from hwloop.transport.pci_modern import PciTransport
from mmio import LoggingRegion, RegionClosed
from pci import BarInfo, Command, ConfigSpace, IoBar, MemoryBar, MemoryBarType

OFFERED = MODERN | Feature.ANY_LAYOUT | BlkFeature.FLUSH
KNOWN = MODERN | BlkFeature.FLUSH


class Echo(FakeDevice):
    """Answers every buffer with nothing."""

    def serve(self, chain: Any) -> int:
        return 0


class Machine:
    """A legacy function, its transport, and a log of its ports."""

    def __init__(
        self,
        queues: tuple[int, ...] = (64, 32),
        config: bytes = bytes(range(60)),
        features: int = OFFERED,
        msix_vectors: int = 0,
    ) -> None:
        self.hal = FakeHal()
        self.device = Echo(self.hal, DeviceType.Block, features, list(queues), config)
        self.function = FakePciLegacyFunction(self.device, msix_vectors=msix_vectors)
        self.bus = LoggingRegion(self.function.ports)
        self.hal.ports[self.function.port] = self.bus
        self.config = ConfigSpace(self.function.config)

    def transport(self) -> PciLegacyTransport:
        return PciLegacyTransport(self.hal, self.config, self.function.bars)

    def begun(self) -> PciLegacyTransport:
        transport = self.transport()
        transport.begin_init(KNOWN)
        self.accesses()
        return transport

    def areas(self, size: int = 64) -> tuple[PhysAddr, PhysAddr, PhysAddr]:
        layout = split_layout(size, align=4096)
        at, _ = self.hal.dma_alloc(-(-(layout.used_offset + layout.used_bytes) // 4096), BufferDirection.Both)
        return at, PhysAddr(at + layout.avail_offset), PhysAddr(at + layout.used_offset)

    def accesses(self) -> list[tuple[str, int, int, int]]:
        """(op, offset, width, value) since this was last called."""
        taken = [tuple(access) for access in self.bus.log]
        self.bus.log.clear()
        return taken  # type: ignore[return-value]


# --- What it touches --------------------------------------------------------------------------------------------------


def test_constructing_it_touches_no_port_and_only_turns_io_decoding_on() -> None:
    machine = Machine()
    machine.transport()
    assert machine.accesses() == []
    assert [(write.offset, write.value) for write in machine.function.config.writes] == [(4, Command.IO_SPACE)]


def test_initialisation_has_this_trace() -> None:
    """Three writes of the status until DRIVER, and no FEATURES_OK (VIRTIO 1.4, 3.1.2)."""
    machine = Machine()
    transport = machine.transport()
    assert transport.begin_init(KNOWN) == BlkFeature.FLUSH | Feature.ANY_LAYOUT
    transport.finish_init()
    offered = BlkFeature.FLUSH | Feature.ANY_LAYOUT
    assert machine.accesses() == [
        ("write", 0x12, 1, 0),
        ("read", 0x12, 1, 0),
        ("write", 0x12, 1, 1),
        ("write", 0x12, 1, 3),
        ("read", 0x00, 4, offered),
        ("write", 0x04, 4, offered),
        ("write", 0x12, 1, 7),
        ("read", 0x12, 1, 7),
    ]


@pytest.mark.parametrize("msix", [False, True])
def test_setting_a_queue_has_this_trace(msix: bool) -> None:
    machine = Machine(msix_vectors=2)
    machine.function.msix.enable(msix)
    transport = machine.begun()
    desc, driver, device = machine.areas(32)
    transport.queue_set(1, 32, desc, driver, device)
    assert machine.accesses() == [
        ("write", 0x0E, 2, 1),
        ("read", 0x0C, 2, 32),
        *([("write", 0x16, 2, 0xFFFF)] if msix else []),
        ("write", 0x08, 4, desc >> 12),
        ("read", 0x08, 4, desc >> 12),
    ]
    assert [transport.queue_used(queue) for queue in (0, 1, 2)] == [False, True, False]
    queue = machine.device.queues[1]
    assert (queue.desc, queue.driver, queue.device) == (desc, driver, device)


def test_a_notification_is_one_write_of_16_bits() -> None:
    machine = Machine()
    transport = machine.begun()
    transport.queue_set(0, 64, *machine.areas())
    transport.finish_init()
    machine.accesses()
    transport.notify(0)
    assert machine.accesses() == [("write", 0x10, 2, 0)]


def test_a_queue_that_is_taken_back_has_the_page_frame_number_0() -> None:
    machine = Machine()
    transport = machine.begun()
    transport.queue_set(0, 64, *machine.areas())
    machine.accesses()
    transport.queue_unset(0)
    assert machine.accesses()[-1] == ("write", 0x08, 4, 0)
    assert not transport.queue_used(0)
    with pytest.raises(InvalidParam, match="queue 0 is not set up"):
        transport.notify(0)


def test_the_size_of_a_queue_is_the_devices() -> None:
    machine = Machine((1024, 32))
    transport = machine.begun()
    assert [transport.max_queue_size(queue) for queue in (0, 1, 2, 1023)] == [1024, 32, 0, 0]
    assert VirtQueue(machine.hal, transport, 0).size == 1024
    with pytest.raises(InvalidParam, match="this transport fixes it at 32"):
        VirtQueue(machine.hal, transport, 1, 16)


def test_a_queue_that_no_device_has_is_not_even_selected() -> None:
    """QEMU would ignore the selection, and show the size of another queue."""
    machine = Machine()
    transport = machine.begun()
    assert [transport.max_queue_size(queue) for queue in (-1, 1024, 0x1_0000)] == [0, 0, 0]
    assert machine.accesses() == []


def test_a_queue_carries_buffers_and_its_interrupt_shows_once() -> None:
    machine = Machine()
    transport = machine.begun()
    queue = VirtQueue(machine.hal, transport, 0)
    transport.finish_init()
    queue.set_dev_notify(True)
    buffer = machine.hal.share(b"hello", BufferDirection.DriverToDevice)
    assert queue.add_notify_wait_pop([(buffer, 5)], [], 1) == 0
    machine.accesses()
    assert transport.ack_interrupt() == InterruptStatus.QUEUE_INTERRUPT
    assert not transport.ack_interrupt()
    assert machine.accesses() == [("read", 0x13, 1, 1), ("read", 0x13, 1, 0)]
    queue.set_dev_notify(False)
    queue.add_notify_wait_pop([(buffer, 5)], [], 1)
    assert not transport.ack_interrupt()


# --- Configuration ----------------------------------------------------------------------------------------------------


def test_configuration_starts_at_0x14_and_at_0x18_while_msix_is_on() -> None:
    machine = Machine(msix_vectors=2)
    transport = machine.begun()
    for enabled, base in ((False, 0x14), (True, 0x18), (False, 0x14)):
        machine.function.msix.enable(enabled)
        assert transport.read_config_space(4, 4) == 0x07060504
        assert machine.accesses() == [("read", base + 4, 4, 0x07060504)]


def test_a_function_whose_msix_is_off_or_missing_has_no_vector_registers() -> None:
    for vectors in (0, 2):
        assert Machine(msix_vectors=vectors).begun().read_config_space(0, 2) == 0x0100


def test_configuration_is_read_with_the_width_of_the_field_and_64_bits_low_half_first() -> None:
    machine = Machine()
    transport = machine.begun()
    assert transport.read_config_space(1, 1) == 1
    assert transport.read_config_space(2, 2) == 0x0302
    assert transport.read_config_space(8, 8) == 0x0F0E0D0C0B0A0908
    assert [access[:3] for access in machine.accesses()] == [
        ("read", 0x15, 1),
        ("read", 0x16, 2),
        ("read", 0x1C, 4),
        ("read", 0x20, 4),
    ]


def test_configuration_is_written_with_the_width_of_the_field() -> None:
    machine = Machine(msix_vectors=1)
    machine.function.msix.enable()
    transport = machine.begun()
    for offset, width in ((0, 1), (2, 2), (4, 4), (8, 8)):
        transport.write_config_space(offset, width, (1 << 8 * width) - 2)
    assert [access[1:3] for access in machine.accesses()] == [(0x18, 1), (0x1A, 2), (0x1C, 4), (0x20, 4), (0x24, 4)]
    assert machine.device.config[8:16] == b"\xfe" + b"\xff" * 7


@pytest.mark.parametrize(("offset", "width"), [(128 - 0x14, 1), (128 - 0x14 - 3, 4), (1 << 40, 1)])
def test_a_field_behind_the_end_of_the_bar_is_too_small_a_space(offset: int, width: int) -> None:
    machine = Machine()
    transport = machine.begun()
    with pytest.raises(ConfigSpaceTooSmall):
        transport.read_config_space(offset, width)
    with pytest.raises(ConfigSpaceTooSmall):
        transport.write_config_space(offset, width, 0)
    assert machine.accesses() == []


def test_a_bar_that_ends_with_the_header_has_no_configuration() -> None:
    machine = Machine()
    machine.function.bars[0] = IoBar(0, machine.function.port, 0x14)
    with pytest.raises(ConfigSpaceMissing):
        machine.transport().read_config_space(0, 1)


def test_a_torn_value_is_read_again_until_two_reads_agree() -> None:
    """There is no generation (VIRTIO 1.4, 2.5.4)."""
    machine = Machine(config=b"\xff\xff\xff\xff\0\0\0\0")
    transport = machine.begun()
    reads = []

    def grow_between_the_halves(offset: int, width: int) -> None:
        reads.append(offset)
        if len(reads) == 1:
            machine.device.config[:] = b"\0\0\0\0\1\0\0\0"

    machine.function.ports.hook(0x14, on_read=lambda at, width: _tear(machine, grow_between_the_halves, at, width))
    assert transport.read_consistent(lambda: transport.read_config_space(0, 8)) == 1 << 32
    assert len(reads) == 4
    assert transport.read_config_generation() == 0


def _tear(machine: Machine, then: Callable[[int, int], None], offset: int, width: int) -> int:
    value = machine.device.read_config(offset - 0x14, width)
    then(offset, width)
    return value


def test_a_configuration_that_never_settles_is_given_up() -> None:
    machine = Machine()
    transport = machine.begun()
    values = iter(range(1 << 30))
    with pytest.raises(DeviceError, match="did not stop changing"):
        transport.read_consistent(lambda: next(values), 0.02)


# --- Features and status ----------------------------------------------------------------------------------------------


def test_features_above_31_are_neither_seen_nor_accepted() -> None:
    machine = Machine(features=(1 << 64) - 1)
    transport = machine.begun()
    assert transport.read_device_features() == 0xFFFF_FFFF
    machine.accesses()
    with pytest.raises(InvalidParam, match="features 0 to 31"):
        transport.write_driver_features(Feature.VERSION_1)
    assert machine.accesses() == []


def test_reserved_bits_of_the_isr_status_mean_nothing() -> None:
    transport = Machine().begun()
    transport.registers.read_isr = lambda: 0xFD  # type: ignore[method-assign]
    assert transport.ack_interrupt() == InterruptStatus.QUEUE_INTERRUPT


def test_an_interrupt_of_a_function_that_is_gone_is_not_acknowledged_but_told() -> None:
    machine = Machine()
    transport = machine.begun()
    machine.device.faults.gone = True
    with pytest.raises(DeviceLost, match="ISR status reads 0xff"):
        transport.ack_interrupt()


def test_a_function_that_is_gone_is_lost_and_stops_quietly() -> None:
    machine = Machine()
    transport = machine.begun()
    machine.device.faults.gone = True
    with pytest.raises(DeviceLost, match="reads 0xff"):
        transport.get_status()
    with pytest.raises(DeviceLost):
        transport.reset()
    transport.stop_dma()
    transport.close()


def test_bus_mastering_is_turned_on_after_the_reset_and_off_at_the_end() -> None:
    machine = Machine()
    transport = machine.transport()
    transport.begin_init(KNOWN)
    assert machine.device.bus_master
    transport.stop_dma()
    assert machine.function.config.command == Command.IO_SPACE


def test_bus_mastering_that_does_not_stick_is_an_error() -> None:
    machine = Machine()
    machine.function.config.write_masks[4] = 0x01
    with pytest.raises(TransportError, match="bus mastering cannot be turned on"):
        machine.transport().begin_init(KNOWN)


# --- Vectors ----------------------------------------------------------------------------------------------------------


def legacy_with_vectors(vectors: int = 3) -> tuple[Machine, PciLegacyTransport]:
    machine = Machine(msix_vectors=vectors)
    machine.function.msix.enable()
    return machine, machine.begun()


def test_vectors_are_written_and_read_back() -> None:
    machine, transport = legacy_with_vectors()
    transport.queue_vectors[0], transport.config_vector = 1, 2
    transport.queue_set(0, 64, *machine.areas())
    assert machine.accesses()[2:4] == [("write", 0x16, 2, 1), ("read", 0x16, 2, 1)]
    transport.finish_init()
    assert machine.accesses()[:2] == [("write", 0x14, 2, 2), ("read", 0x14, 2, 2)]


def test_messages_are_sent_for_used_buffers_and_changed_configuration_and_the_isr_stays_clear() -> None:
    machine, transport = legacy_with_vectors()
    transport.queue_vectors[0], transport.config_vector = 1, 2
    queue = VirtQueue(machine.hal, transport, 0)
    transport.finish_init()
    queue.set_dev_notify(True)
    buffer = machine.hal.share(b"hello", BufferDirection.DriverToDevice)
    queue.add_notify_wait_pop([(buffer, 5)], [], 1)
    machine.device.config_changed()
    assert machine.function.msix.sent == [1, 2]
    assert not transport.ack_interrupt()


def test_a_vector_that_the_device_refuses_is_an_error() -> None:
    machine, transport = legacy_with_vectors()
    machine.device.faults.refuse_vectors = True
    transport.queue_vectors[0], transport.config_vector = 1, 2
    with pytest.raises(TransportError, match=r"queue 0 did not take the MSI-X vector 1; it shows 0xffff"):
        transport.queue_set(0, 64, *machine.areas())
    with pytest.raises(TransportError, match="the configuration did not take the MSI-X vector 2"):
        transport.finish_init()
    assert not machine.device.status & DeviceStatus.DRIVER_OK


@pytest.mark.parametrize("vectors", [0, 3])
def test_a_vector_while_msix_is_off_is_the_callers_mistake(vectors: int) -> None:
    """Its register is not there then: the write would go to the configuration."""
    machine = Machine(msix_vectors=vectors)
    transport = machine.begun()
    transport.queue_vectors[0], transport.config_vector = 1, 2
    with pytest.raises(InvalidParam, match="queue 0 cannot have an MSI-X vector while MSI-X is off"):
        transport.queue_set(0, 64, *machine.areas())
    with pytest.raises(InvalidParam, match="the configuration cannot have an MSI-X vector"):
        transport.set_config_vector()
    assert not [access for access in machine.accesses() if access[0] == "write" and access[1] != 0x0E]


@pytest.mark.parametrize("vector", [-1, 0x1_0000])
def test_a_number_that_is_no_vector_is_the_callers_mistake(vector: int) -> None:
    machine, transport = legacy_with_vectors()
    transport.queue_vectors[0] = vector
    with pytest.raises(InvalidParam, match=f"cannot have the MSI-X vector {vector}"):
        transport.queue_set(0, 64, *machine.areas())


# --- Functions and queues that cannot be ------------------------------------------------------------------------------

ADDRESS_LIMIT = 1 << 44
"""A page frame number has 32 bits (VIRTIO 1.4, 4.1.5.1.3.1)."""
MEMORY_BAR = MemoryBar(0, MemoryBarType.Width32, False, 0xFE00_0000, 0x1000)


@pytest.mark.parametrize(
    ("bars", "words"),
    [
        ({}, "the function has no BAR 0"),
        ({1: IoBar(1, 0xC000, 128)}, "the function has no BAR 0"),
        ({0: MEMORY_BAR}, "BAR 0 is a memory BAR"),
        ({0: IoBar(0, 0, 128)}, "BAR 0 has no I/O ports assigned"),
        ({0: IoBar(0, 0xC000, 16)}, "BAR 0 has 16 bytes, less than the 20 of the registers"),
    ],
)
def test_a_function_without_legacy_ports_is_refused_and_not_written(bars: dict[int, BarInfo], words: str) -> None:
    machine = Machine()
    with pytest.raises(TransportError, match=f"there is no legacy interface: {words}"):
        PciLegacyTransport(machine.hal, machine.config, bars)
    assert machine.function.config.writes == []


def test_ports_that_end_in_front_of_the_vectors_are_too_few_for_a_function_with_msix() -> None:
    machine = Machine(msix_vectors=1)
    with pytest.raises(TransportError, match="BAR 0 has 20 bytes, less than the 24 of the registers"):
        PciLegacyTransport(machine.hal, machine.config, {0: IoBar(0, 0xC000, 20)})


def test_a_function_whose_id_or_revision_is_not_legacy_is_refused() -> None:
    machine = Machine()
    machine.function.config.poke(2, b"\x42\x10")
    with pytest.raises(TransportError, match="1af4:1042 has no legacy interface"):
        machine.transport()
    machine.function.config.poke(2, b"\x01\x10")
    machine.function.config.poke(8, b"\x01")
    with pytest.raises(TransportError, match="revision 1; a legacy one has 0"):
        machine.transport()


def test_a_hal_that_reaches_no_ports_says_so() -> None:
    class Portless(FakeHal):
        port_region = Hal.port_region

    machine = Machine()
    with pytest.raises(Unsupported, match="reaches no I/O ports, so not 0xc000"):
        PciLegacyTransport(Portless(), machine.config, machine.function.bars)


def test_a_capability_list_that_loops_is_an_error_and_not_a_hang() -> None:
    machine = Machine(msix_vectors=1)
    machine.function.config.poke(0xE0, b"\x09\xe0")
    with pytest.raises(TransportError, match="leads back"):
        machine.transport()


@pytest.mark.parametrize("size", [0, 3, 100, 32769, 65536])
def test_a_size_that_no_queue_has_is_the_callers_mistake(size: int) -> None:
    machine = Machine()
    with pytest.raises(InvalidParam, match=f"queue 0 cannot have {size} descriptors"):
        machine.begun().queue_set(0, size, *machine.areas())
    assert machine.accesses() == []


@pytest.mark.parametrize("size", [100, 65535])
def test_a_device_whose_queue_has_an_impossible_size_is_refused(size: int) -> None:
    machine = Machine((size,))
    with pytest.raises(TransportError, match=f"queue 0 (has|claims) {size} descriptors"):
        VirtQueue(machine.hal, machine.begun(), 0)


def test_a_size_or_a_queue_that_is_not_the_devices_is_refused_before_anything_is_written() -> None:
    machine = Machine()
    transport = machine.begun()
    with pytest.raises(InvalidParam, match="cannot have 32 descriptors: the device has fixed it at 64"):
        transport.queue_set(0, 32, *machine.areas(32))
    with pytest.raises(InvalidParam, match="the device has no such queue"):
        transport.queue_set(2, 64, *machine.areas())
    assert all(access[0] == "read" or access[1] == 0x0E for access in machine.accesses())


def block_at(address: int, size: int = 64) -> tuple[PhysAddr, PhysAddr, PhysAddr]:
    layout = split_layout(size, align=4096)
    return PhysAddr(address), PhysAddr(address + layout.avail_offset), PhysAddr(address + layout.used_offset)


@pytest.mark.parametrize("address", [0, ADDRESS_LIMIT, 1 << 52])
def test_memory_that_a_page_frame_number_cannot_name_is_refused(address: int) -> None:
    machine = Machine()
    with pytest.raises(DmaError, match=f"queue 0 is at {address:#x}; a legacy device can be told"):
        machine.begun().queue_set(0, 64, *block_at(address))
    assert machine.accesses() == []


def test_the_last_page_that_can_be_named_is_told_whole() -> None:
    machine = Machine()
    transport = machine.begun()
    machine.function.ports.hook(0x08, lambda at, width: 0xFFFF_FFFF, lambda at, width, value: value)
    transport.queue_set(0, 64, *block_at(ADDRESS_LIMIT - 4096))
    assert machine.accesses()[-2:] == [("write", 0x08, 4, 0xFFFF_FFFF), ("read", 0x08, 4, 0xFFFF_FFFF)]


def test_memory_that_does_not_start_a_page_is_refused() -> None:
    machine = Machine()
    with pytest.raises(InvalidParam, match="0x1800, which is not the start of a page"):
        machine.begun().queue_set(0, 64, *block_at(0x1800))


def test_areas_that_the_device_would_look_for_elsewhere_are_refused() -> None:
    machine = Machine()
    desc, driver, device = machine.areas()
    with pytest.raises(InvalidParam, match="do not have the legacy layout"):
        machine.begun().queue_set(0, 64, desc, driver, PhysAddr(device + 4096))


def test_a_page_frame_number_that_does_not_stick_is_an_error() -> None:
    machine = Machine()
    transport = machine.begun()
    machine.function.ports.hook(0x08, on_read=lambda offset, width: 0)
    with pytest.raises(TransportError, match="queue 0 did not take the page frame number"):
        transport.queue_set(0, 64, *machine.areas())


def test_closing_gives_up_the_ports_and_may_be_repeated() -> None:
    machine = Machine()
    transport = machine.begun()
    transport.queue_set(0, 64, *machine.areas())
    transport.close()
    transport.close()
    with pytest.raises(RegionClosed):
        transport.get_status()
    with pytest.raises(InvalidParam):
        transport.notify(0)


def test_the_table_of_transports_has_it() -> None:
    assert TRANSPORTS.get("pci-legacy") is PciLegacyTransport
    assert PciLegacyTransport.name == "pci-legacy"


# --- The fake function catches mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "width", "value", "words"),
    [
        (0x00, 4, 0, "device_features is read-only"),
        (0x0C, 2, 64, "queue_size is read-only"),
        (0x13, 1, 0, "isr_status is read-only"),
        (0x00, 2, 0, "no register"),
        (0x04, 1, 0, "no register"),
        (0x08, 2, 1, "no register"),
        (0x0C, 4, 64, "no register"),
        (0x10, 4, 0, "no register"),
        (0x10, 1, 0, "no register"),
        (0x12, 2, 0, "no register"),
        (0x10, 2, 2, "queue 2 was notified; there are 2"),
        (0x10, 2, 0, "before DRIVER_OK"),
        (0x12, 1, 11, "legacy device does not know"),
        (0x04, 4, 1 << 27 | 1 << 1, "not offered"),
        (0x04, 4, 0, "ANY_LAYOUT is offered and was not accepted"),
        (0x04, 4, 1 << 30 | 1 << 27, "feature bit 30"),
        (0x08, 4, 1, "no memory of"),
        (0x14 + 60, 1, 1, "behind the device's configuration"),
    ],
)
def test_a_write_that_breaks_a_rule_is_caught_in_the_act(offset: int, width: int, value: int, words: str) -> None:
    machine = Machine()
    machine.begun()
    write = {1: machine.bus.write8, 2: machine.bus.write16, 4: machine.bus.write32}[width]
    with pytest.raises(AssertionError, match=words):
        write(offset, value)


@pytest.mark.parametrize(
    ("offset", "width", "words"),
    [(0x00, 2, "no register"), (0x0C, 4, "no register"), (0x12, 2, "no register"), (0x10, 2, "write-only")],
)
def test_a_read_of_the_wrong_width_or_place_is_caught(offset: int, width: int, words: str) -> None:
    machine = Machine()
    machine.begun()
    with pytest.raises(RuleBroken, match=words):
        {2: machine.bus.read16, 4: machine.bus.read32}[width](offset)


def test_ports_with_io_decoding_off_are_caught() -> None:
    machine = Machine()
    transport = machine.begun()
    machine.config.set_command_bits(Command(0), Command.IO_SPACE)
    with pytest.raises(RuleBroken, match="I/O decoding is off"):
        transport.get_status()


def test_a_queue_that_is_given_memory_twice_or_that_is_missing_is_caught() -> None:
    machine = Machine()
    transport = machine.begun()
    transport.queue_set(0, 64, *machine.areas())
    with pytest.raises(RuleBroken, match="while it is in use"):
        transport.queue_set(0, 64, *machine.areas())
    transport.registers.select_queue(2)
    with pytest.raises(RuleBroken, match="the device has no such queue"):
        transport.registers.write_queue_address(1)


def test_memory_of_the_wrong_direction_is_caught_when_the_queue_is_told() -> None:
    machine = Machine()
    transport = machine.begun()
    layout = split_layout(64, align=4096)
    at, _ = machine.hal.dma_alloc(4, BufferDirection.DriverToDevice)
    with pytest.raises(AssertionError, match="the device may not write"):
        transport.queue_set(0, 64, at, PhysAddr(at + layout.avail_offset), PhysAddr(at + layout.used_offset))


def test_a_reset_under_way_allows_nothing_but_the_status() -> None:
    machine = Machine()
    transport = machine.begun()
    machine.device.faults.reset_reads = 5
    transport.set_status(DeviceStatus(0))
    with pytest.raises(RuleBroken, match="while the device was being reset"):
        transport.read_device_features()
    transport.reset()
    transport.read_device_features()


def test_a_vector_of_a_function_without_msix_is_caught() -> None:
    with pytest.raises(RuleBroken, match="has no MSI-X table"):
        Machine().function.msix.vector(0)


def test_a_vector_that_is_not_in_the_table_is_caught() -> None:
    machine, transport = legacy_with_vectors(2)
    transport.queue_vectors[0] = 2
    with pytest.raises(RuleBroken, match="vector 2 was written; the MSI-X table has 2"):
        transport.queue_set(0, 64, *machine.areas())


# --- Transitional functions -------------------------------------------------------------------------------------------


class Transitional:
    """A function with both interfaces, and a transport over each."""

    def __init__(self) -> None:
        self.hal = FakeHal()
        self.device = Echo(self.hal, DeviceType.Block, OFFERED, [64], bytes(60))
        function = FakePciFunction(self.device, transitional=True, msix_vectors=2)
        self.hal.regions[function.address] = function.region
        self.hal.ports[function.port] = function.ports
        self.function = function
        self.modern = PciTransport(self.hal, ConfigSpace(function.config), function.bars)
        self.legacy = PciLegacyTransport(self.hal, ConfigSpace(function.config), function.bars)


def test_a_transitional_function_shows_each_interface_its_features() -> None:
    both = Transitional()
    info = ConfigSpace(both.function.config).read_info()
    assert (info.device_id, info.revision) == (0x1001, 0)
    assert both.legacy.begin_init(KNOWN) == BlkFeature.FLUSH | Feature.ANY_LAYOUT
    assert both.device.legacy
    both.legacy.reset()
    assert both.modern.begin_init(KNOWN) == MODERN | BlkFeature.FLUSH
    assert not both.device.legacy


def test_mixing_the_interfaces_without_a_reset_is_caught() -> None:
    both = Transitional()
    both.modern.begin_init(KNOWN)
    with pytest.raises(RuleBroken, match="driven through its modern interface"):
        both.legacy.read_device_features()
    with pytest.raises(RuleBroken, match="driven through its modern interface"):
        both.legacy.set_status(DeviceStatus.ACKNOWLEDGE)
    both.legacy.begin_init(KNOWN)
    with pytest.raises(RuleBroken, match="driven through its legacy interface"):
        both.modern.max_queue_size(0)
    with pytest.raises(RuleBroken, match="driven through its legacy interface"):
        both.modern.set_status(DeviceStatus.ACKNOWLEDGE)


def test_memory_decoding_does_not_open_the_ports() -> None:
    both = Transitional()
    config = ConfigSpace(both.function.config)
    config.set_command_bits(Command.MEMORY_SPACE, Command.IO_SPACE)
    with pytest.raises(RuleBroken, match="I/O decoding is off"):
        both.legacy.get_status()
    assert both.modern.get_status() == 0
