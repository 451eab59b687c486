"""The real MMIO transport: which registers it touches in both versions, how wide, in which order; what it refuses."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from cython_ring import split_layout
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import (
    AlreadyUsed,
    ConfigSpaceMissing,
    ConfigSpaceTooSmall,
    DeadlineExpired,
    DeviceLost,
    DmaError,
    InvalidParam,
    TransportError,
)
from hwloop.hal.base import BufferDirection
from hwloop.hal.fake import FakeHal
from hwloop.spec import DeviceStatus, DeviceType, Feature, InterruptStatus, PhysAddr
from hwloop.transport import TRANSPORTS, mmio
from hwloop.transport.fake_device import MODERN, FakeDevice, RuleBroken
from hwloop.transport.fake_mmio import ADDRESS, VENDOR_ID, FakeMmioDevice
from hwloop.transport.mmio import (
    BadMagic,
    InvalidDeviceID,
    MmioError,
    MmioRegionTooSmall,
    MmioTransport,
    MmioVersion,
    UnsupportedVersion,
)
from hwloop.transport.mmio_registers import VirtIOHeader, VirtioMmioTransport
from hwloop.transport.probe import probe_mmio_device
from mmio import FakeRegion, LoggingRegion, RegionClosed, RegionInUse, UniqueMmioPointer

FEATURES = MODERN | Feature.RING_RESET | Feature.ANY_LAYOUT


class Machine:
    """A device, its transport, and a log of the bus."""

    def __init__(
        self, version: int, queues: tuple[int, ...] = (64, 32), config: bytes = bytes(range(60)), **shape: Any
    ) -> None:
        self.hal = FakeHal()
        self.device = FakeDevice(self.hal, DeviceType.Block, int(FEATURES), list(queues), config)
        self.bank = FakeMmioDevice(self.device, version, **shape)
        self.bus = LoggingRegion(self.bank.region)
        self.hal.regions[ADDRESS] = self.bus

    def transport(self, size: int = 0x200) -> MmioTransport:
        return MmioTransport(self.hal, ADDRESS, size)

    def begun(self) -> MmioTransport:
        transport = self.transport()
        transport.begin_init(FEATURES)
        self.accesses()
        return transport

    def accesses(self) -> list[tuple[str, int, int, int]]:
        """(op, offset, width, value) since this was last called."""
        taken = [tuple(access) for access in self.bus.log]
        self.bus.log.clear()
        return taken  # type: ignore[return-value]

    def areas(self, size: int = 16) -> tuple[PhysAddr, PhysAddr, PhysAddr]:
        """One block of the legacy layout, which suits both versions."""
        layout = split_layout(size, align=4096)
        start, _ = self.hal.dma_alloc(3, BufferDirection.Both)
        return start, PhysAddr(start + layout.avail_offset), PhysAddr(start + layout.used_offset)

    def set_queue(self, transport: MmioTransport, queue: int = 0, size: int = 16) -> int:
        areas = self.areas(size)
        transport.queue_set(queue, size, *areas)
        return areas[0]


@pytest.fixture(params=[1, 2])
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(request.param)


# --- What it touches --------------------------------------------------------------------------------------------------


def test_constructing_it_reads_four_registers_and_writes_none(machine: Machine) -> None:
    transport = machine.transport()
    version = machine.bank.version
    assert machine.accesses() == [
        ("read", 0x000, 4, 0x74726976),
        ("read", 0x004, 4, version),
        ("read", 0x008, 4, 2),
        ("read", 0x00C, 4, VENDOR_ID),
    ]
    assert transport.version is MmioVersion(version)
    assert (transport.vendor_id, transport.device_type()) == (VENDOR_ID, DeviceType.Block)
    assert machine.accesses() == [], "properties touch nothing"


def test_initialisation_of_version_2_has_this_trace() -> None:
    machine = Machine(2)
    transport = machine.transport()
    machine.accesses()
    transport.begin_init(FEATURES)
    transport.finish_init()
    low, high = FEATURES & 0xFFFF_FFFF, FEATURES >> 32
    assert machine.accesses() == [
        ("write", 0x70, 4, 0),
        ("read", 0x70, 4, 0),
        ("write", 0x70, 4, 1),
        ("write", 0x70, 4, 3),
        ("write", 0x14, 4, 0),
        ("read", 0x10, 4, low),
        ("write", 0x14, 4, 1),
        ("read", 0x10, 4, high),
        ("write", 0x24, 4, 0),
        ("write", 0x20, 4, low),
        ("write", 0x24, 4, 1),
        ("write", 0x20, 4, high),
        ("write", 0x70, 4, 11),
        ("read", 0x70, 4, 11),
        ("write", 0x70, 4, 15),
        ("read", 0x70, 4, 15),
    ]


def test_initialisation_of_version_1_has_this_trace() -> None:
    machine = Machine(1)
    transport = machine.transport()
    machine.accesses()
    assert transport.begin_init(FEATURES) == Feature.ANY_LAYOUT
    transport.finish_init()
    assert machine.accesses() == [
        ("write", 0x70, 4, 0),
        ("read", 0x70, 4, 0),
        ("write", 0x70, 4, 1),
        ("write", 0x70, 4, 3),
        ("write", 0x14, 4, 0),
        ("read", 0x10, 4, Feature.ANY_LAYOUT),
        ("write", 0x24, 4, 0),
        ("write", 0x20, 4, Feature.ANY_LAYOUT),
        ("write", 0x28, 4, 4096),
        ("write", 0x70, 4, 7),
        ("read", 0x70, 4, 7),
    ]


def test_setting_a_queue_of_version_2_has_this_trace() -> None:
    machine = Machine(2)
    transport = machine.begun()
    desc, driver, device = machine.areas()
    transport.queue_set(1, 16, desc, driver, device)
    low = 0xFFFF_FFFF
    assert machine.accesses() == [
        ("write", 0x30, 4, 1),
        ("read", 0x44, 4, 0),
        ("write", 0x30, 4, 1),
        ("read", 0x34, 4, 32),
        ("write", 0x38, 4, 16),
        ("write", 0x80, 4, desc & low),
        ("write", 0x84, 4, desc >> 32),
        ("write", 0x90, 4, driver & low),
        ("write", 0x94, 4, driver >> 32),
        ("write", 0xA0, 4, device & low),
        ("write", 0xA4, 4, device >> 32),
        ("write", 0x44, 4, 1),
        ("read", 0x44, 4, 1),
    ]


def test_setting_a_queue_of_version_1_has_this_trace() -> None:
    machine = Machine(1)
    transport = machine.begun()
    desc, driver, device = machine.areas()
    transport.queue_set(1, 16, desc, driver, device)
    assert machine.accesses() == [
        ("write", 0x30, 4, 1),
        ("read", 0x40, 4, 0),
        ("write", 0x30, 4, 1),
        ("read", 0x40, 4, 0),
        ("read", 0x34, 4, 32),
        ("write", 0x38, 4, 16),
        ("write", 0x3C, 4, 4096),
        ("write", 0x40, 4, desc // 4096),
        ("read", 0x40, 4, desc // 4096),
    ]
    state = machine.device.queues[1]
    assert (state.desc, state.driver, state.device) == (desc, driver, device)


def test_a_notification_is_one_write_of_32_bits(machine: Machine) -> None:
    transport = machine.begun()
    machine.set_queue(transport)
    transport.finish_init()
    machine.accesses()
    transport.notify(0)
    assert machine.accesses() == [("write", 0x50, 4, 0)]


# --- Features and status ----------------------------------------------------------------------------------------------


def test_version_1_has_no_features_above_31() -> None:
    transport = Machine(1).transport()
    assert transport.read_device_features() == FEATURES & 0xFFFF_FFFF
    with pytest.raises(InvalidParam, match="version 1 has features 0 to 31"):
        transport.write_driver_features(int(Feature.VERSION_1))


def test_a_device_that_does_not_answer_any_more_is_lost(machine: Machine) -> None:
    transport = machine.begun()
    machine.device.faults.gone = True
    with pytest.raises(DeviceLost, match="the device status reads 0xffffffff"):
        transport.get_status()
    with pytest.raises(DeviceLost, match="the interrupt status reads 0xffffffff"):
        transport.ack_interrupt()


def test_a_reset_is_waited_for_and_nothing_else_is_touched_meanwhile(machine: Machine) -> None:
    transport = machine.begun()
    machine.device.faults.reset_reads = 3
    transport.reset()
    assert [access[1] for access in machine.accesses()] == [0x70] * 5


def test_a_reset_that_does_not_end_is_an_error(machine: Machine) -> None:
    transport = machine.begun()
    machine.device.faults.reset_reads = -1
    with pytest.raises(DeadlineExpired, match="finish its reset"):
        transport.reset(0.02)
    assert transport.reset_pending


# --- Queues -----------------------------------------------------------------------------------------------------------


def test_queues_have_their_sizes_and_those_that_are_not_there_have_none(machine: Machine) -> None:
    transport = machine.begun()
    assert [transport.max_queue_size(queue) for queue in (0, 1, 2, -1, 1024, 1 << 20)] == [64, 32, 0, 0, 0, 0]
    assert [transport.queue_used(queue) for queue in (0, 2, -1, 1024)] == [False] * 4


def test_a_queue_in_use_still_has_its_largest_size(machine: Machine) -> None:
    transport = machine.begun()
    machine.set_queue(transport)
    assert transport.queue_used(0)
    assert transport.max_queue_size(0) == 64


def test_a_queue_is_not_set_up_twice(machine: Machine) -> None:
    transport = machine.begun()
    machine.set_queue(transport)
    with pytest.raises(AlreadyUsed, match="queue 0 is set up already"):
        machine.set_queue(transport)


@pytest.mark.parametrize(("queue", "size"), [(0, 128), (0, 0), (2, 16), (-1, 16)])
def test_a_size_or_a_queue_that_the_device_has_not_is_refused(machine: Machine, queue: int, size: int) -> None:
    transport = machine.begun()
    with pytest.raises(InvalidParam, match=f"queue {queue} cannot have {size} descriptors"):
        transport.queue_set(queue, size, *machine.areas())


def test_a_queue_that_is_not_set_up_cannot_be_notified(machine: Machine) -> None:
    transport = machine.begun()
    machine.set_queue(transport)
    for queue in (1, 7):
        with pytest.raises(InvalidParam, match=f"queue {queue} is not set up"):
            transport.notify(queue)
    transport.reset()
    with pytest.raises(InvalidParam, match="queue 0 is not set up"):
        transport.notify(0)


def test_a_queue_that_does_not_become_ready_is_an_error() -> None:
    machine = Machine(2)
    transport = machine.begun()
    machine.bank.region.hook(0x44, on_read=lambda offset, width: 0)
    with pytest.raises(TransportError, match=r"queue 0 did not become ready \(VIRTIO 1.4, 4.2.2\)"):
        machine.set_queue(transport)


def test_a_queue_that_does_not_take_its_place_is_an_error() -> None:
    machine = Machine(1)
    transport = machine.begun()
    areas, frames = machine.areas(), iter([0, 0, 0x1234])
    machine.bank.region.hook(0x40, on_read=lambda offset, width: next(frames))
    with pytest.raises(TransportError, match=r"did not take the page frame number .* it shows 0x1234"):
        transport.queue_set(0, 16, *areas)


def test_a_queue_that_was_unset_can_be_set_up_again(machine: Machine) -> None:
    transport = machine.begun()
    transport.negotiated &= ~Feature.RING_RESET
    machine.set_queue(transport)
    transport.queue_unset(0)
    assert not transport.queue_used(0)
    machine.set_queue(transport)
    assert transport.queue_used(0)


@pytest.mark.parametrize(("negotiated", "register"), [(0, 0x44), (int(Feature.RING_RESET), 0xC0)])
def test_unsetting_a_queue_of_version_2_waits_until_the_device_has_let_go(negotiated: int, register: int) -> None:
    machine = Machine(2)
    transport = machine.begun()
    transport.negotiated = negotiated
    machine.set_queue(transport)
    machine.bank.stop_reads = 2
    machine.accesses()
    transport.queue_unset(0)
    assert machine.accesses() == [
        ("write", 0x30, 4, 0),
        ("write", register, 4, int(bool(negotiated))),
        ("read", register, 4, 1),
        ("read", register, 4, 1),
        ("read", register, 4, 0),
    ]


def test_a_queue_that_does_not_stop_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmio, "RESET_SECONDS", 0.02)
    machine = Machine(2)
    transport = machine.begun()
    machine.set_queue(transport)
    machine.bank.stop_reads = -1
    with pytest.raises(DeadlineExpired, match="queue 0 to stop"):
        transport.queue_unset(0)


def test_the_page_size_is_told_again_after_a_reset() -> None:
    machine = Machine(1)
    transport = machine.begun()
    transport.reset()
    transport.set_status(DeviceStatus.ACKNOWLEDGE)
    transport.set_status(DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER)
    machine.accesses()
    machine.set_queue(transport)
    assert ("write", 0x28, 4, 4096) in machine.accesses()


def test_another_page_size_changes_the_frame_numbers() -> None:
    machine = Machine(1)
    transport = machine.begun()
    transport.set_guest_page_size(1024)
    start = machine.set_queue(transport)
    assert ("write", 0x40, 4, start // 1024) in machine.accesses()
    assert machine.device.queues[0].desc == start


@pytest.mark.parametrize("size", [0, -4096, 4095])
def test_a_page_size_that_is_no_power_of_two_is_refused(machine: Machine, size: int) -> None:
    with pytest.raises(InvalidParam, match="a page cannot have"):
        machine.transport().set_guest_page_size(size)


def test_version_2_is_told_no_page_size() -> None:
    machine = Machine(2)
    transport = machine.begun()
    transport.set_guest_page_size(4096)
    assert machine.accesses() == []


@pytest.mark.parametrize(
    ("kind", "areas"),
    [
        (InvalidParam, (0x1000, 0x1100, 0x3000)),
        (InvalidParam, (0x1000, 0x1108, 0x2000)),
        (InvalidParam, (0x1010, 0x1110, 0x2000)),
        (DmaError, (0, 0x100, 0x1000)),
        (DmaError, (1 << 44, (1 << 44) + 0x100, (1 << 44) + 0x1000)),
    ],
)
def test_version_1_takes_only_one_block_of_the_legacy_layout(kind: type[OSError], areas: tuple[int, int, int]) -> None:
    transport = Machine(1).begun()
    with pytest.raises(kind, match="queue 0"):
        transport.queue_set(0, 16, *map(PhysAddr, areas))
    assert not transport.queue_used(0)


# --- Interrupts and configuration -------------------------------------------------------------------------------------


def test_an_interrupt_is_read_and_what_was_read_is_acknowledged(machine: Machine) -> None:
    transport = machine.begun()
    machine.device.interrupt_status = InterruptStatus(3)
    assert transport.ack_interrupt() == InterruptStatus(3)
    assert machine.accesses() == [("read", 0x60, 4, 3), ("write", 0x64, 4, 3)]
    assert not transport.ack_interrupt()
    assert machine.accesses() == [("read", 0x60, 4, 0)]


def test_undefined_bits_of_an_interrupt_are_neither_believed_nor_written(machine: Machine) -> None:
    transport = machine.begun()
    machine.device.interrupt_status = InterruptStatus(0xF2)
    assert transport.ack_interrupt() == InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT
    assert machine.accesses()[-1] == ("write", 0x64, 4, 2)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_field_is_read_and_written_with_its_own_width(machine: Machine, width: int) -> None:
    transport = machine.begun()
    expected = int.from_bytes(bytes(range(8, 8 + width)), "little")
    assert transport.read_config_space(8, width) == expected
    transport.set_status(DeviceStatus(7 if machine.bank.version == 1 else 11))
    machine.accesses()
    transport.write_config_space(8, width, 0x12)
    assert machine.accesses() == [("write", 0x108, width, 0x12)]


def test_a_field_of_64_bits_is_two_accesses_the_low_half_first(machine: Machine) -> None:
    transport = machine.begun()
    assert transport.read_config_space(0, 8) == 0x0706_0504_0302_0100
    assert [access[:3] for access in machine.accesses()] == [("read", 0x100, 4), ("read", 0x104, 4)]
    transport.write_config_space(16, 8, 0x1122_3344_5566_7788)
    assert machine.accesses() == [("write", 0x110, 4, 0x5566_7788), ("write", 0x114, 4, 0x1122_3344)]


def test_fields_outside_the_configuration_are_refused(machine: Machine) -> None:
    transport = machine.transport()
    with pytest.raises(ConfigSpaceTooSmall):
        transport.read_config_space(0x100, 1)
    with pytest.raises(InvalidParam):
        transport.read_config_space(-1, 1)
    with pytest.raises(InvalidParam):
        transport.read_config_space(0, 3)
    transport.close()
    with pytest.raises(ConfigSpaceMissing):
        machine.transport(0x100).read_config_space(0, 1)


def test_the_generation_is_read_in_version_2_and_made_up_in_version_1() -> None:
    modern, legacy = Machine(2), Machine(1)
    modern.device.generation = 7
    transport = modern.begun()
    assert (transport.read_config_generation(), transport.has_config_generation) == (7, True)
    assert modern.accesses() == [("read", 0xFC, 4, 7)]
    transport = legacy.begun()
    assert (transport.read_config_generation(), transport.has_config_generation) == (0, False)
    assert legacy.accesses() == []


def test_shared_memory_regions_are_found_by_their_id() -> None:
    machine = Machine(2, shared_memory={3: (0x12_0000_0000, 0x1_0000_1000)})
    transport = machine.begun()
    assert transport.read_shared_memory(3) == (0x12_0000_0000, 0x1_0000_1000)
    assert transport.read_shared_memory(0) is None
    assert machine.accesses()[0] == ("write", 0xAC, 4, 3)


def test_version_1_has_no_shared_memory_and_no_register_of_it_is_touched() -> None:
    machine = Machine(1)
    assert machine.begun().read_shared_memory(0) is None
    assert machine.accesses() == []


# --- Bad input --------------------------------------------------------------------------------------------------------


def refused(machine: Machine, kind: type[MmioError], text: str) -> MmioError:
    with pytest.raises(kind) as caught:
        machine.transport()
    assert text in str(caught.value)
    assert f"{ADDRESS:#x}: " in str(caught.value)
    nothing_is_mapped(machine)
    return caught.value


def nothing_is_mapped(machine: Machine) -> None:
    UniqueMmioPointer(FakeRegion(0x200), ADDRESS, 0x200, space=machine.hal).close()


@pytest.mark.fault(37)
@pytest.mark.parametrize("value", [0, 0xFFFF_FFFF, 0x7669_7274, 0x7472_6977])
def test_registers_that_do_not_begin_with_the_magic_value_are_refused(machine: Machine, value: int) -> None:
    machine.bank.magic = value
    error = refused(machine, BadMagic, f"Invalid magic value {value:#010x} (expected 0x74726976)")
    assert error.value == value
    assert ("nothing answers there" in str(error)) == (value == 0xFFFF_FFFF)
    assert len(machine.accesses()) == 1, "nothing else is read of what is no device"


@pytest.mark.fault(37)
@pytest.mark.parametrize("value", [0, 3, 0xFFFF_FFFF])
def test_a_version_that_is_neither_1_nor_2_is_refused(machine: Machine, value: int) -> None:
    machine.bank.version = value
    assert refused(machine, UnsupportedVersion, f"Unsupported Virtio MMIO version {value}").value == value
    assert len(machine.accesses()) == 2


@pytest.mark.fault(37)
@pytest.mark.parametrize(("value", "why"), [(0, "the slot is empty"), (63, "no device has it")])
def test_a_device_id_that_is_none_is_refused(machine: Machine, value: int, why: str) -> None:
    machine.bank.device_id = value
    error = refused(
        machine, InvalidDeviceID, f"Invalid or unknown device ID: Invalid or unknown virtio device type {value}"
    )
    assert why in str(error)
    assert [access[1] for access in machine.accesses()] == [0, 4, 8], "of an empty slot nothing else is touched"


@pytest.mark.fault(37)
def test_an_address_where_nothing_answers_is_refused() -> None:
    machine = Machine(2)
    machine.hal.regions[ADDRESS] = FakeRegion(0x200, fill=0xFF)
    refused(machine, BadMagic, "0xffffffff")


def test_a_region_too_small_for_the_registers_is_refused_before_it_is_mapped(machine: Machine) -> None:
    for size in (0, 4, 0xFF, -1):
        with pytest.raises(MmioRegionTooSmall, match="MMIO region too small") as caught:
            machine.transport(size)
        assert caught.value.value == size
    assert machine.accesses() == []
    nothing_is_mapped(machine)


@pytest.mark.parametrize("address", [ADDRESS + 1, ADDRESS + 2, -4, 1 << 52, (1 << 52) - 0x100, 1 << 70])
def test_an_address_that_registers_cannot_have_is_refused(address: int) -> None:
    machine = Machine(2)
    with pytest.raises(InvalidParam, match=f"{address:#x} "):
        MmioTransport(machine.hal, address)
    assert machine.accesses() == []


def test_an_address_where_the_hal_has_nothing_is_refused_and_free_afterwards() -> None:
    hal = FakeHal()
    for _ in range(2):
        with pytest.raises(DmaError, match="there are no registers"):
            MmioTransport(hal, ADDRESS)


@pytest.mark.parametrize(
    "error", [BadMagic(1, "0x10"), UnsupportedVersion(3), InvalidDeviceID(0), MmioRegionTooSmall(4)]
)
def test_the_errors_are_transport_errors_that_can_be_sent_to_another_process(error: MmioError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, TransportError)
    assert (type(copy), str(copy), copy.value) == (type(error), str(error), error.value)


# --- One owner --------------------------------------------------------------------------------------------------------


def test_registers_have_one_transport_at_a_time(machine: Machine) -> None:
    with machine.transport():
        with pytest.raises(RegionInUse):
            machine.transport()
        with pytest.raises(RegionInUse):
            MmioTransport(machine.hal, ADDRESS + 0x100, 0x100)
    machine.transport().close()


def test_closing_unmaps_everything_and_may_be_done_twice(machine: Machine) -> None:
    transport = machine.begun()
    machine.set_queue(transport)
    transport.close()
    transport.close()
    with pytest.raises(RegionClosed):
        transport.get_status()
    with pytest.raises(InvalidParam):
        transport.notify(0)
    nothing_is_mapped(machine)


def test_registers_that_are_owned_already_can_be_given_to_a_transport(machine: Machine) -> None:
    pointer = UniqueMmioPointer(machine.bus, ADDRESS, 0x200)
    transport = MmioTransport.new_from_unique(pointer)
    transport.begin_init(FEATURES)
    machine.set_queue(transport)
    transport.finish_init()
    machine.accesses()
    transport.notify(0)
    assert machine.accesses() == [("write", 0x50, 4, 0)]
    transport.close()
    assert pointer.closed


def test_registers_of_no_device_are_closed_by_who_was_given_them() -> None:
    pointer = UniqueMmioPointer(FakeRegion(0x200), ADDRESS, 0x200)
    with pytest.raises(BadMagic):
        MmioTransport.new_from_unique(pointer)
    assert pointer.closed


# --- Probing ----------------------------------------------------------------------------------------------------------


def test_probing_gives_the_type_and_the_transport(machine: Machine) -> None:
    found = probe_mmio_device(machine.hal, ADDRESS, 0x200)
    assert found is not None
    device_type, transport = found
    assert device_type == DeviceType.Block
    assert transport.version == machine.bank.version


@pytest.mark.parametrize(
    ("register", "value"),
    [("magic", 0), ("magic", 0xFFFF_FFFF), ("version", 0), ("version", 3), ("device_id", 0), ("device_id", 1000)],
)
def test_probing_what_is_no_device_gives_nothing_and_leaves_nothing_mapped(register: str, value: int) -> None:
    machine = Machine(2)
    setattr(machine.bank, register, value)
    assert probe_mmio_device(machine.hal, ADDRESS, 0x200) is None
    nothing_is_mapped(machine)


# --- The registers by their names -------------------------------------------------------------------------------------


def test_the_transport_is_in_the_table() -> None:
    assert TRANSPORTS.get("mmio") is MmioTransport
    assert mmio.VirtIOHeader is VirtIOHeader


@pytest.mark.parametrize(
    ("name", "offset", "width", "readable", "writable"),
    [
        ("magic_value", 0x000, 4, True, False),
        ("version", 0x004, 4, True, False),
        ("device_id", 0x008, 4, True, False),
        ("vendor_id", 0x00C, 4, True, False),
        ("device_features", 0x010, 4, True, False),
        ("device_features_sel", 0x014, 4, False, True),
        ("driver_features", 0x020, 4, False, True),
        ("driver_features_sel", 0x024, 4, False, True),
        ("guest_page_size", 0x028, 4, False, True),
        ("queue_sel", 0x030, 4, False, True),
        ("queue_size_max", 0x034, 4, True, False),
        ("queue_size", 0x038, 4, False, True),
        ("queue_align", 0x03C, 4, False, True),
        ("queue_pfn", 0x040, 4, True, True),
        ("queue_ready", 0x044, 4, True, True),
        ("queue_notify", 0x050, 4, False, True),
        ("interrupt_status", 0x060, 4, True, False),
        ("interrupt_ack", 0x064, 4, False, True),
        ("status", 0x070, 4, True, True),
        ("queue_desc", 0x080, 8, False, True),
        ("queue_driver", 0x090, 8, False, True),
        ("queue_device", 0x0A0, 8, False, True),
        ("shm_sel", 0x0AC, 4, False, True),
        ("shm_len", 0x0B0, 8, True, False),
        ("shm_base", 0x0B8, 8, True, False),
        ("queue_reset", 0x0C0, 4, True, True),
        ("config_generation", 0x0FC, 4, True, False),
    ],
)
def test_a_register_has_its_place_and_its_direction(
    name: str, offset: int, width: int, readable: bool, writable: bool
) -> None:
    register = getattr(VirtIOHeader, name)
    assert (register.offset, register.width, register.readable, register.writable) == (
        offset,
        width,
        readable,
        writable,
    )
    assert register.form.alignment == 4, "one of 64 bits is two accesses of 32"


def test_no_register_is_left_out() -> None:
    assert len(VirtIOHeader.registers()) == 27
    assert VirtIOHeader.span == 0x100


def test_a_device_is_driven_by_the_steps_of_seed_003() -> None:
    machine = Machine(2)
    steps = VirtioMmioTransport(machine.bus)
    steps.begin_init()
    assert steps.read_device_features() == FEATURES & 0xFFFF_FFFF
    steps.write_driver_features(0)
    steps.write_driver_features(int(MODERN) >> 32, 1)
    assert steps.set_features_ok()
    steps.select_queue(0)
    assert steps.read_queue_size_max() == 64
    steps.write_queue_size(16)
    steps.write_queue_phys(*machine.areas())
    steps.set_queue_ready()
    steps.set_driver_ok()
    assert steps.read_status() == 15
    steps.notify_queue(0)
    assert steps.read_config_u64(0) == 0x0706_0504_0302_0100
    assert machine.device.queues[0].enabled
    steps.close()
    with pytest.raises(RegionClosed):
        steps.read_status()


def test_refused_features_show_in_the_step_of_seed_003() -> None:
    machine = Machine(2)
    machine.device.faults.refuse_features = True
    steps = VirtioMmioTransport(machine.bus)
    steps.begin_init()
    steps.write_driver_features(int(MODERN) >> 32, 1)
    assert not steps.set_features_ok()


@pytest.mark.parametrize("version", [1, 2])
def test_a_queue_size_that_is_no_power_of_two_is_rounded_down(version: int) -> None:
    hal = FakeHal()
    bank = FakeMmioDevice(FakeBlk(hal, features=int(FEATURES), queue_size=100), version)
    hal.regions[ADDRESS] = bank.region
    with VirtioBlk(MmioTransport(hal, ADDRESS), hal) as disk:
        assert disk.virtqueues[0].size == 64


def test_the_fake_is_strict(machine: Machine) -> None:
    with pytest.raises(RuleBroken):
        machine.bank.region.read32(0x0E0)
