"""The fake device refuses what QEMU forgives, in the call that broke the rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwloop.errors import ConfigSpaceMissing, ConfigSpaceTooSmall, DeviceLost
from hwloop.hal.base import BufferDirection
from hwloop.hal.fake import FakeHal
from hwloop.spec import DeviceStatus, DeviceType, Feature, InterruptStatus, PhysAddr
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, FakeDevice, RuleBroken


def new_device(config: bytes = bytes(16)) -> FakeDevice:
    return FakeDevice(FakeHal(), DeviceType.Block, MODERN, [8, 8], config)


def negotiated() -> FakeTransport:
    transport = FakeTransport(new_device())
    transport.begin_init(MODERN)
    return transport


def set_queue(transport: FakeTransport, size: int = 8, queue: int = 0) -> None:
    hal = transport.device.hal
    areas = [hal.dma_alloc(1, direction)[0] for direction in (BufferDirection.Both,) * 3]
    transport.queue_set(queue, size, *areas)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ([2], "skips a step"),
        ([1, 3, 7], "skips a step"),
        ([1, 3, 11, 3], "clears a bit"),
        ([1, 3, 1], "clears a bit"),
        ([1, 0x81, 0x83], "marked FAILED"),
        ([8], "skips a step"),
        ([1, 3, 15], "VERSION_1 is offered and was not accepted"),
    ],
)
def test_status_bits_are_set_in_their_order_and_never_cleared(written: list[int], words: str) -> None:
    device = new_device()
    *before, last = written
    for value in before:
        if value & 8 and not device.status & 8:
            device.write_features(MODERN)
        device.write_status(value)
    with pytest.raises(RuleBroken, match=words):
        device.write_status(last)


def test_needs_reset_is_the_devices_own_bit_and_the_driver_need_not_write_it() -> None:
    device = new_device()
    device.write_status(1)
    device.status |= DeviceStatus.DEVICE_NEEDS_RESET
    device.write_status(3)
    assert device.status == 3


def early(transport: FakeTransport) -> None:
    transport.reset()
    transport.write_driver_features(0)


def late(transport: FakeTransport) -> None:
    transport.write_driver_features(0)


def unoffered(transport: FakeTransport) -> None:
    transport.reset()
    transport.set_status(DeviceStatus(1))
    transport.set_status(DeviceStatus(3))
    transport.write_driver_features(Feature.RING_PACKED)


def queue_too_early(transport: FakeTransport) -> None:
    transport.reset()
    set_queue(transport)


def queue_too_late(transport: FakeTransport) -> None:
    transport.finish_init()
    set_queue(transport)


def queue_twice(transport: FakeTransport) -> None:
    set_queue(transport)
    set_queue(transport)


def queue_of_odd_size(transport: FakeTransport) -> None:
    set_queue(transport, 6)


def queue_too_large(transport: FakeTransport) -> None:
    set_queue(transport, 16)


def notified_too_early(transport: FakeTransport) -> None:
    set_queue(transport)
    transport.notify(0)


def notified_without_a_queue(transport: FakeTransport) -> None:
    transport.finish_init()
    transport.notify(1)


def notified_without_bus_mastering(transport: FakeTransport) -> None:
    set_queue(transport)
    transport.finish_init()
    transport.stop_dma()
    transport.notify(0)


def configuration_too_early(transport: FakeTransport) -> None:
    transport.reset()
    transport.write_config_space(0, 1, 1)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (early, "features were written while the status was"),
        (late, "features were written while the status was"),
        (unoffered, r"not offered: \['VIRTIO_F_RING_PACKED'\]"),
        (queue_too_early, "queue 0 was enabled while the status was"),
        (queue_too_late, "queue 0 was enabled while the status was"),
        (queue_twice, "queue 0 was enabled twice"),
        (queue_of_odd_size, "given 6 descriptors of 8"),
        (queue_too_large, "given 16 descriptors of 8"),
        (notified_too_early, "before DRIVER_OK"),
        (notified_without_a_queue, "queue 1 was notified and is not enabled"),
        (notified_without_bus_mastering, "bus mastering is off"),
        (configuration_too_early, "before FEATURES_OK"),
    ],
)
def test_a_mistake_is_caught_where_it_is_made(mistake: Callable[[FakeTransport], None], words: str) -> None:
    with pytest.raises(RuleBroken, match=words):
        mistake(negotiated())


def test_a_queue_in_memory_that_is_not_shared_is_caught() -> None:
    with pytest.raises(AssertionError, match="no memory of"):
        negotiated().queue_set(0, 8, PhysAddr(0x1000), PhysAddr(0x2000), PhysAddr(0x3000))


@pytest.mark.parametrize("touch", [lambda t: t.write_driver_features(0), lambda t: t.notify(0), set_queue])
def test_a_reset_under_way_allows_nothing_but_the_status(touch: Callable[[FakeTransport], None]) -> None:
    transport = negotiated()
    transport.device.faults.reset_reads = 100
    transport.set_status(DeviceStatus(0))
    with pytest.raises(RuleBroken, match="while the device was being reset"):
        touch(transport)


def test_a_reset_forgets_everything_the_driver_said() -> None:
    transport = negotiated()
    set_queue(transport)
    transport.reset()
    assert (transport.device.status, transport.device.driver_features) == (0, 0)
    assert not transport.queue_used(0)
    assert transport.max_queue_size(0) == 8


def test_a_device_that_is_gone_reads_all_ones() -> None:
    transport = negotiated()
    transport.device.faults.gone = True
    with pytest.raises(DeviceLost):
        transport.get_status()
    assert transport.read_config_space(0, 4) == 0xFFFF_FFFF


def test_the_configuration_ends_where_it_ends() -> None:
    transport = negotiated()
    assert transport.read_config_space(12, 4) == 0
    with pytest.raises(ConfigSpaceTooSmall):
        transport.read_config_space(13, 4)
    with pytest.raises(ConfigSpaceMissing):
        FakeTransport(new_device(b"")).read_config_space(0, 1)


def test_a_missing_queue_has_size_zero() -> None:
    assert negotiated().max_queue_size(2) == 0


# --- Interrupts -------------------------------------------------------------------------------------------------------


def live(device: FakeDevice) -> FakeTransport:
    transport = FakeTransport(device)
    transport.begin_init(MODERN)
    set_queue(transport)
    transport.finish_init()
    return transport


def test_a_changed_configuration_interrupts_a_driver_that_is_live() -> None:
    device = new_device()
    device.config_changed()
    assert (device.generation, device.interrupt_status) == (1, 0), "nobody to tell"
    live(device)
    device.config_changed()
    assert (device.generation, device.interrupt_status) == (2, InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT)


def test_only_what_is_acknowledged_stops_interrupting_and_a_reset_stops_all() -> None:
    device = new_device()
    device.interrupt_status = InterruptStatus(3)
    device.acknowledge(1)
    assert device.interrupt_status == InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT
    device.reset_itself()
    assert not device.interrupt_status


@pytest.mark.parametrize(("messages_on", "status"), [(True, 0), (False, 2)])
def test_an_event_is_a_message_where_messages_are_on_and_a_status_elsewhere(messages_on: bool, status: int) -> None:
    device = new_device()
    live(device)
    asked: list[int | None] = []
    device.config_vector = 5

    def send(vector: int | None) -> bool:
        asked.append(vector)
        return messages_on

    device.send_message = send
    device.config_changed()
    assert (asked, device.interrupt_status) == ([5], status)
