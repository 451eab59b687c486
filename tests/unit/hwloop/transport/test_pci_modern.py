"""The real PCI transport: which registers it touches, how wide, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from hwloop.errors import (
    ConfigSpaceMissing,
    ConfigSpaceTooSmall,
    DeadlineExpired,
    DeviceLost,
    InvalidParam,
    TransportError,
)
from hwloop.hal.fake import FakeHal
from hwloop.spec import DeviceStatus, DeviceType, Feature, InterruptStatus, PhysAddr
from hwloop.transport import TRANSPORTS
from hwloop.transport.fake_device import MODERN, FakeDevice, RuleBroken
from hwloop.transport.fake_pci import FakePciFunction, with_multiplier
from hwloop.transport.pci_modern import PciTransport
from mmio import LoggingRegion, RegionClosed
from pci import Command, ConfigSpace, PciError

BAR = 0x38_0000_0000
NOTIFY = 0x3000


class Machine:
    """A function, its transport, and a log of the bus."""

    def __init__(
        self, queues: tuple[int, ...] = (64, 32), config: bytes = bytes(range(60)), features: int = MODERN, **shape: Any
    ) -> None:
        self.hal = FakeHal()
        self.device = FakeDevice(self.hal, DeviceType.Block, features, list(queues), config)
        self.function = FakePciFunction(self.device, **shape)
        self.bus = LoggingRegion(self.function.region)
        self.hal.regions[BAR] = self.bus
        self.config = ConfigSpace(self.function.config)

    def transport(self) -> PciTransport:
        return PciTransport(self.hal, self.config, self.function.bars)

    def accesses(self) -> list[tuple[str, int, int, int]]:
        """(op, offset, width, value) since this was last called."""
        taken = [tuple(access) for access in self.bus.log]
        self.bus.log.clear()
        return taken  # type: ignore[return-value]


def begun(machine: Machine) -> PciTransport:
    transport = machine.transport()
    transport.begin_init(MODERN | Feature.RING_RESET)
    machine.accesses()
    return transport


# --- What it touches --------------------------------------------------------------------------------------------------


def test_constructing_it_touches_no_register_and_only_turns_memory_decoding_on() -> None:
    machine = Machine()
    machine.transport()
    assert machine.accesses() == []
    assert [(write.offset, write.value) for write in machine.function.config.writes] == [(4, Command.MEMORY_SPACE)]


def test_initialisation_has_this_trace() -> None:
    machine = Machine()
    transport = machine.transport()
    transport.begin_init(MODERN)
    transport.finish_init()
    assert machine.accesses() == [
        ("write", 0x14, 1, 0),
        ("read", 0x14, 1, 0),
        ("write", 0x14, 1, 1),
        ("write", 0x14, 1, 3),
        ("write", 0x00, 4, 0),
        ("read", 0x04, 4, 0),
        ("write", 0x00, 4, 1),
        ("read", 0x04, 4, 3),
        ("write", 0x08, 4, 0),
        ("write", 0x0C, 4, 0),
        ("write", 0x08, 4, 1),
        ("write", 0x0C, 4, 3),
        ("write", 0x14, 1, 11),
        ("read", 0x14, 1, 11),
        ("write", 0x14, 1, 15),
        ("read", 0x14, 1, 15),
    ]


def test_setting_a_queue_has_this_trace() -> None:
    machine = Machine()
    transport = begun(machine)
    desc, driver, device = (machine.hal.dma_alloc(1, direction)[0] for direction in _directions())
    transport.queue_set(1, 16, desc, driver, device)
    low, high = 0xFFFF_FFFF, 32
    assert machine.accesses() == [
        ("read", 0x12, 2, 2),
        ("write", 0x16, 2, 1),
        ("write", 0x18, 2, 16),
        ("read", 0x18, 2, 16),
        ("write", 0x1A, 2, 0xFFFF),
        ("write", 0x20, 4, desc & low),
        ("write", 0x24, 4, desc >> high),
        ("write", 0x28, 4, driver & low),
        ("write", 0x2C, 4, driver >> high),
        ("write", 0x30, 4, device & low),
        ("write", 0x34, 4, device >> high),
        ("read", 0x1E, 2, 1),
        ("write", 0x1C, 2, 1),
        ("read", 0x1C, 2, 1),
    ]
    assert transport.queue_used(1)
    assert not transport.queue_used(0)
    assert not transport.queue_used(2)


def _directions() -> tuple[Any, Any, Any]:
    from hwloop.hal.base import BufferDirection

    return BufferDirection.DriverToDevice, BufferDirection.DriverToDevice, BufferDirection.DeviceToDriver


def set_queue(machine: Machine, transport: PciTransport, queue: int = 0, size: int = 16) -> None:
    desc, driver, device = (machine.hal.dma_alloc(1, direction)[0] for direction in _directions())
    transport.queue_set(queue, size, desc, driver, device)


@pytest.mark.parametrize("multiplier", [0, 2, 4, 256])
@pytest.mark.parametrize("queue", [0, 1])
def test_a_notification_is_one_write_of_16_bits_at_the_queues_own_place(multiplier: int, queue: int) -> None:
    machine = Machine(multiplier=multiplier)
    transport = begun(machine)
    set_queue(machine, transport, queue)
    transport.finish_init()
    machine.accesses()
    transport.notify(queue)
    assert machine.accesses() == [("write", NOTIFY + queue * multiplier, 2, queue)]


def test_a_queue_that_was_not_set_up_cannot_be_notified() -> None:
    machine = Machine()
    transport = begun(machine)
    with pytest.raises(InvalidParam, match="queue 0 is not set up"):
        transport.notify(0)
    assert machine.accesses() == []


def test_the_largest_size_of_a_queue_is_read_and_a_missing_queue_has_none() -> None:
    machine = Machine((64, 32))
    transport = machine.transport()
    assert [transport.max_queue_size(queue) for queue in (0, 1, 2, 0xFFFF, 0x1_0000, -1)] == [64, 32, 0, 0, 0, 0]
    assert all(write[3] in (0, 1) for write in machine.accesses() if write[:2] == ("write", 0x16))


def test_a_queue_is_reset_where_that_was_negotiated() -> None:
    machine = Machine(features=MODERN | Feature.RING_RESET)
    transport = begun(machine)
    set_queue(machine, transport)
    machine.accesses()
    transport.queue_unset(0)
    assert machine.accesses() == [
        ("read", 0x12, 2, 2),
        ("write", 0x16, 2, 0),
        ("write", 0x3A, 2, 1),
        ("read", 0x3A, 2, 0),
    ]
    assert not transport.queue_used(0)
    set_queue(machine, transport)
    assert transport.queue_used(0)


@pytest.mark.fault(34)
@pytest.mark.parametrize(("features", "shape"), [(MODERN, {}), (MODERN | Feature.RING_RESET, {"common_length": 56})])
def test_a_queue_that_cannot_be_reset_is_left_to_the_reset_of_the_device(features: int, shape: dict[str, Any]) -> None:
    """Writing 0 to queue_enable is forbidden, and a short structure has no queue_reset."""
    machine = Machine(features=features, **shape)
    transport = begun(machine)
    set_queue(machine, transport)
    machine.accesses()
    transport.queue_unset(0)
    assert machine.accesses() == []
    with pytest.raises(InvalidParam):
        transport.notify(0)


def test_a_queue_reset_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwloop.transport import pci_modern

    monkeypatch.setattr(pci_modern, "RESET_SECONDS", 0.02)
    machine = Machine(features=MODERN | Feature.RING_RESET)
    transport = begun(machine)
    set_queue(machine, transport)
    machine.function.region.hook(0x3A, on_read=lambda offset, width: 1)
    with pytest.raises(DeadlineExpired, match="queue 0 to finish its reset"):
        transport.queue_unset(0)


# --- Devices that say no, or nonsense ---------------------------------------------------------------------------------


def test_a_queue_that_does_not_take_its_size_is_an_error() -> None:
    machine = Machine()
    transport = begun(machine)
    machine.function.region.hook(0x18, on_read=lambda offset, width: 8, on_write=lambda offset, width, value: 8)
    with pytest.raises(TransportError, match="queue 0 did not take the size 16"):
        set_queue(machine, transport)


def test_a_queue_that_does_not_become_enabled_is_an_error() -> None:
    machine = Machine()
    transport = begun(machine)
    machine.function.region.hook(0x1C, on_read=lambda offset, width: 0)
    with pytest.raises(TransportError, match="queue 0 did not become enabled"):
        set_queue(machine, transport)


def test_a_queue_that_the_device_does_not_have_is_the_callers_mistake() -> None:
    machine = Machine()
    transport = begun(machine)
    with pytest.raises(InvalidParam, match="no queue 2; it has 2"):
        set_queue(machine, transport, 2)


@pytest.mark.fault(33)
@pytest.mark.parametrize("notify_off", [2, 0xFFFF])
def test_a_doorbell_behind_its_structure_is_never_mapped(notify_off: int) -> None:
    machine = Machine()
    transport = begun(machine)
    machine.function.region.hook(0x1E, on_read=lambda offset, width: notify_off)
    with pytest.raises(TransportError, match=f"notified at {notify_off * 4:#x}, behind the end"):
        set_queue(machine, transport)


@pytest.mark.fault(33)
def test_a_huge_multiplier_does_not_wrap() -> None:
    machine = Machine()
    position = next(cap.position for cap in _virtio(machine) if cap.cfg_type == 2)
    body = bytes(machine.function.config.data[position + 2 : position + 16])
    machine.function.config.poke(position + 2, with_multiplier(body, 1 << 31))
    transport = begun(machine)
    machine.function.region.hook(0x1E, on_read=lambda offset, width: 2)
    with pytest.raises(TransportError, match="notified at 0x100000000"):
        set_queue(machine, transport)


def _virtio(machine: Machine) -> list[Any]:
    from hwloop.transport.pci_capability import virtio_capabilities

    return list(virtio_capabilities(machine.config))


def test_bus_mastering_is_turned_on_after_the_reset_and_read_back() -> None:
    machine = Machine()
    transport = machine.transport()
    assert not machine.function.config.command & Command.BUS_MASTER
    transport.begin_init(MODERN)
    assert machine.function.config.command & Command.BUS_MASTER
    assert machine.device.bus_master
    transport.stop_dma()
    assert machine.function.config.command == Command.MEMORY_SPACE
    assert not machine.device.bus_master


def test_bus_mastering_that_does_not_stick_is_an_error() -> None:
    machine = Machine()
    machine.function.config.write_masks[4] = 0x02
    with pytest.raises(TransportError, match="bus mastering cannot be turned on"):
        machine.transport().begin_init(MODERN)


def test_a_function_that_is_gone_is_lost_and_stops_quietly() -> None:
    machine = Machine()
    transport = begun(machine)
    machine.device.faults.gone = True
    with pytest.raises(DeviceLost, match="reads 0xff"):
        transport.get_status()
    with pytest.raises(DeviceLost, match="ISR status reads 0xff"):
        transport.ack_interrupt()
    with pytest.raises(DeviceLost):
        transport.reset()
    transport.stop_dma()
    transport.close()


@pytest.mark.parametrize(("vendor", "device"), [(0x8086, 0x1042), (0x1AF4, 0x1040), (0x1AF4, 0x1110)])
def test_a_function_that_is_not_virtio_is_refused(vendor: int, device: int) -> None:
    machine = Machine()
    machine.function.config.poke(0, vendor.to_bytes(2, "little") + device.to_bytes(2, "little"))
    with pytest.raises(TransportError, match=f"{vendor:04x}:{device:04x} is not a virtio device"):
        machine.transport()
    assert machine.function.config.writes == []


def test_an_empty_slot_is_an_error_of_pci() -> None:
    machine = Machine()
    machine.device.faults.gone = True
    with pytest.raises(PciError):
        machine.transport()


# --- Configuration and interrupts -------------------------------------------------------------------------------------


def test_configuration_is_read_with_the_width_of_the_field() -> None:
    machine = Machine()
    transport = begun(machine)
    assert transport.read_config_space(1, 1) == 1
    assert transport.read_config_space(2, 2) == 0x0302
    assert transport.read_config_space(4, 4) == 0x07060504
    assert transport.read_config_space(8, 8) == 0x0F0E0D0C0B0A0908
    assert [access[:3] for access in machine.accesses()] == [
        ("read", 0x2001, 1),
        ("read", 0x2002, 2),
        ("read", 0x2004, 4),
        ("read", 0x2008, 4),
        ("read", 0x200C, 4),
    ]


def test_configuration_is_written_with_the_width_of_the_field() -> None:
    machine = Machine()
    transport = begun(machine)
    for offset, width in ((0, 1), (2, 2), (4, 4), (8, 8)):
        transport.write_config_space(offset, width, (1 << 8 * width) - 2)
    assert [access[1:3] for access in machine.accesses()] == [
        (0x2000, 1),
        (0x2002, 2),
        (0x2004, 4),
        (0x2008, 4),
        (0x200C, 4),
    ]
    assert machine.device.config[8:16] == b"\xfe" + b"\xff" * 7


@pytest.mark.parametrize(("offset", "width"), [(60, 1), (59, 2), (57, 4), (1 << 40, 1)])
def test_a_field_behind_the_end_is_too_small_a_space(offset: int, width: int) -> None:
    transport = begun(Machine())
    with pytest.raises(ConfigSpaceTooSmall):
        transport.read_config_space(offset, width)
    with pytest.raises(ConfigSpaceTooSmall):
        transport.write_config_space(offset, width, 0)


@pytest.mark.parametrize(("offset", "width"), [(-1, 1), (0, 3), (0, 16), (0, 0)])
def test_an_access_that_is_none_is_the_callers_mistake(offset: int, width: int) -> None:
    with pytest.raises(InvalidParam):
        begun(Machine()).read_config_space(offset, width)


def test_a_device_without_configuration_says_so() -> None:
    transport = begun(Machine(config=b""))
    with pytest.raises(ConfigSpaceMissing):
        transport.read_config_space(0, 1)


@pytest.mark.fault(28)
def test_reading_the_isr_acknowledges_both_kinds_at_once() -> None:
    machine = Machine()
    transport = begun(machine)
    machine.function.isr = 3
    assert transport.ack_interrupt() == InterruptStatus(3)
    assert not transport.ack_interrupt()
    assert machine.accesses() == [("read", 0x1000, 1, 3), ("read", 0x1000, 1, 0)]


def test_the_generation_is_one_byte() -> None:
    machine = Machine()
    transport = begun(machine)
    machine.device.generation = 200
    assert transport.read_config_generation() == 200
    assert machine.accesses() == [("read", 0x15, 1, 200)]


# --- Vectors ----------------------------------------------------------------------------------------------------------


def with_vectors(vectors: int = 3) -> tuple[Machine, PciTransport]:
    machine = Machine(msix_vectors=vectors)
    machine.function.msix.enable()
    transport = begun(machine)
    transport.queue_vectors[1], transport.config_vector = 0, 2
    return machine, transport


def test_a_queue_takes_its_vector_and_the_others_take_none() -> None:
    machine, transport = with_vectors()
    set_queue(machine, transport, 0)
    set_queue(machine, transport, 1)
    assert [access for access in machine.accesses() if access[1] == 0x1A] == [
        ("write", 0x1A, 2, 0xFFFF),
        ("write", 0x1A, 2, 0),
        ("read", 0x1A, 2, 0),
    ]


def test_the_configuration_takes_its_vector_before_driver_ok() -> None:
    machine, transport = with_vectors()
    transport.finish_init()
    assert [access[:3] for access in machine.accesses()] == [
        ("write", 0x10, 2),
        ("read", 0x10, 2),
        ("write", 0x14, 1),
        ("read", 0x14, 1),
    ]
    machine.device.config_changed()
    assert machine.function.msix.sent == [2]
    assert not transport.ack_interrupt()


@pytest.mark.fault(36)
def test_a_vector_that_the_device_refuses_is_an_error() -> None:
    """VIRTIO 1.4, 4.1.5.1.2.2: it reads back as NO_VECTOR."""
    machine, transport = with_vectors()
    machine.device.faults.refuse_vectors = True
    with pytest.raises(TransportError, match="queue 1 did not take the MSI-X vector 0; it shows 0xffff"):
        set_queue(machine, transport, 1)
    assert not transport.queue_used(1)
    with pytest.raises(TransportError, match="the configuration did not take the MSI-X vector 2"):
        transport.finish_init()
    assert not machine.device.status & DeviceStatus.DRIVER_OK


def test_an_event_whose_vector_stays_unset_interrupts_by_no_message_and_by_no_status() -> None:
    machine, transport = with_vectors()
    transport.config_vector = None
    transport.finish_init()
    machine.device.config_changed()
    assert machine.function.msix.sent == []
    assert not transport.ack_interrupt()


def test_a_vector_behind_the_table_is_caught() -> None:
    transport = with_vectors(2)[1]
    with pytest.raises(RuleBroken, match="vector 2 was written; the MSI-X table has 2"):
        transport.set_config_vector()


# --- Its end ----------------------------------------------------------------------------------------------------------


def test_closing_gives_up_every_window_and_may_be_repeated() -> None:
    machine = Machine()
    transport = begun(machine)
    set_queue(machine, transport)
    transport.close()
    transport.close()
    with pytest.raises(RegionClosed):
        transport.get_status()
    with pytest.raises(InvalidParam):
        transport.notify(0)


def test_a_queue_that_is_set_again_after_a_reset_has_the_same_doorbell_until_the_end() -> None:
    machine = Machine()
    transport = begun(machine)
    set_queue(machine, transport)
    first = transport._doorbells[0]
    transport.begin_init(MODERN)
    set_queue(machine, transport)
    assert transport._doorbells[0] is first
    transport.close()
    with pytest.raises(RegionClosed):
        first.write16(0, 0)


def test_a_failure_while_mapping_gives_up_what_was_mapped() -> None:
    machine = Machine()
    opened: list[Any] = []
    mapper = machine.hal.mmio_phys_to_virt

    def watched(paddr: int, size: int, *, hot: bool = False) -> Any:
        if len(opened) == 2:
            raise InvalidParam("no more")
        opened.append(mapper(paddr, size, hot=hot))
        return opened[-1]

    machine.hal.mmio_phys_to_virt = watched  # type: ignore[method-assign]
    with pytest.raises(InvalidParam):
        machine.transport()
    assert [region.closed for region in opened] == [True, True]


def test_the_table_of_transports_names_them_all() -> None:
    assert {"fake", "pci", "pci-legacy"} <= set(TRANSPORTS)
    assert TRANSPORTS.get("pci") is PciTransport


# --- The fake function catches mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "width", "value", "words"),
    [
        (0x04, 4, 0, "device_feature is read-only"),
        (0x12, 2, 0, "num_queues is read-only"),
        (0x15, 1, 0, "config_generation is read-only"),
        (0x1E, 2, 0, "queue_notify_off is read-only"),
        (0x14, 4, 0, "no field"),
        (0x18, 4, 0, "no field"),
        (0x20, 8, 0, "no field"),
        (0x16, 2, 2, "queue 2 was selected"),
        (0x18, 2, 0, "queue_size 0"),
        (0x18, 2, 3, "queue_size 3"),
        (0x18, 2, 128, "queue_size 128"),
        (0x1C, 2, 0, "0 was written to queue_enable"),
        (0x10, 2, 0, "no MSI-X"),
        (0x3A, 2, 1, "queue_reset"),
        (0x40, 4, 0, "no structure"),
        (0x1000, 1, 0, "ISR status was written"),
        (0x2001, 2, 0, "device configuration in one access"),
        (0x203C, 1, 0, "no structure"),
        (0x3000, 4, 0, "notification of 32 bits"),
        (0x3000, 2, 1, "notification 1 was written at 0x0"),
        (0x3004, 2, 7, "notification 7"),
        (0x3000, 2, 0, "before DRIVER_OK"),
    ],
)
def test_a_write_that_breaks_a_rule_is_caught_in_the_act(offset: int, width: int, value: int, words: str) -> None:
    machine = Machine()
    begun(machine)
    write = {1: machine.bus.write8, 2: machine.bus.write16, 4: machine.bus.write32, 8: machine.bus.write64}[width]
    with pytest.raises((RuleBroken, OSError), match=f"{words}|not aligned"):
        write(offset, value)


def test_registers_with_memory_decoding_off_are_caught() -> None:
    machine = Machine()
    transport = begun(machine)
    machine.config.set_command_bits(Command(0), Command.MEMORY_SPACE)
    with pytest.raises(RuleBroken, match="memory decoding is off"):
        transport.get_status()


def test_a_write_to_a_capability_is_caught() -> None:
    with pytest.raises(RuleBroken, match="written to a capability"):
        Machine().config.write32(0x48, 0)


def test_configuration_that_is_written_too_early_is_caught() -> None:
    machine = Machine()
    transport = machine.transport()
    transport.reset()
    with pytest.raises(RuleBroken, match="before FEATURES_OK"):
        transport.write_config_space(32, 1, 1)


def test_areas_that_are_written_while_the_queue_is_enabled_are_caught() -> None:
    machine = Machine()
    transport = begun(machine)
    set_queue(machine, transport)
    with pytest.raises(RuleBroken, match="while it is enabled"):
        machine.bus.write32(0x20, 0)


def test_memory_that_is_not_the_devices_is_caught_when_the_queue_is_enabled() -> None:
    machine = Machine()
    transport = begun(machine)
    with pytest.raises(AssertionError, match="no memory of"):
        transport.queue_set(0, 16, PhysAddr(0x1000), PhysAddr(0x2000), PhysAddr(0x3000))


def test_a_reset_under_way_allows_nothing_but_the_status() -> None:
    machine = Machine()
    transport = begun(machine)
    machine.device.faults.reset_reads = 5
    transport.set_status(DeviceStatus(0))
    with pytest.raises(RuleBroken, match="while the device was being reset"):
        transport.read_device_features()
    transport.reset()
    transport.read_device_features()
