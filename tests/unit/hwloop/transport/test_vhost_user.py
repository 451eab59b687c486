"""The transport and the HAL of a vhost-user device, against a strict back end in process."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import closing

import pytest

from hwloop.device.blk_protocol import BlkConfig
from hwloop.errors import (
    AlreadyUsed,
    ConfigSpaceMissing,
    ConfigSpaceTooSmall,
    DeviceLost,
    DmaError,
    FeaturesRefused,
    InvalidParam,
    TransportError,
    Unsupported,
)
from hwloop.hal.base import BufferDirection, Dma
from hwloop.hal.vhost import VhostHal
from hwloop.queue import VirtQueue
from hwloop.spec import BlkFeature, DeviceStatus, DeviceType, Feature, InterruptStatus, PhysAddr
from hwloop.vhost import BackEndRefused
from hwloop.vhost.fake_backend import EVERYTHING, LEAST, LIKE_QEMU, MOST_SLOTS, PeerFaults
from hwloop.vhost.messages import ProtocolFeature, Request
from tests.timing import SLACK
from tests.unit.hwloop.vhost.peer import FEATURES, SIZE, Peer

BOTH = pytest.mark.parametrize("protocol", [EVERYTHING, LIKE_QEMU, LEAST], ids=["everything", "like qemu", "least"])
SETTING_UP_A_QUEUE = [
    Request.SET_VRING_NUM,
    Request.SET_VRING_BASE,
    Request.SET_VRING_ADDR,
    Request.SET_VRING_ERR,
    Request.SET_VRING_CALL,
    Request.SET_VRING_KICK,
    Request.SET_VRING_ENABLE,
]


# --- The order of messages --------------------------------------------------------------------------------------------


def test_a_disk_is_opened_with_the_messages_that_qemu_storage_daemon_wants_in_their_order() -> None:
    with Peer(LIKE_QEMU) as peer:
        peer.disk()
        assert [request for request in peer.back_end.requests if request != Request.GET_CONFIG] == [
            Request.GET_FEATURES,
            Request.SET_OWNER,
            Request.GET_PROTOCOL_FEATURES,
            Request.SET_PROTOCOL_FEATURES,
            Request.GET_QUEUE_NUM,
            Request.SET_BACKEND_REQ_FD,
            Request.GET_FEATURES,
            Request.SET_FEATURES,
            Request.GET_MAX_MEM_SLOTS,
            Request.ADD_MEM_REG,
            *SETTING_UP_A_QUEUE,
        ]


def test_a_back_end_without_slots_gets_its_memory_as_a_table() -> None:
    with Peer(LIKE_QEMU & ~ProtocolFeature.CONFIGURE_MEM_SLOTS) as peer:
        disk = peer.disk()
        disk.write(0, b"x" * 512)
        assert Request.SET_MEM_TABLE in peer.back_end.requests
        assert Request.ADD_MEM_REG not in peer.back_end.requests


def test_notes_of_requests_in_flight_are_shared_before_the_first_queue_where_that_is_offered() -> None:
    with Peer() as peer:
        peer.disk()
        at = peer.back_end.requests.index
        assert at(Request.GET_INFLIGHT_FD) < at(Request.SET_INFLIGHT_FD) < at(Request.SET_VRING_NUM)


def test_notes_of_requests_in_flight_do_not_outlive_the_queues() -> None:
    with Peer() as peer:
        transport, hal = peer.parts(largest_queue=64)
        for count in (1, 2):
            transport.begin_init(FEATURES)
            with closing(VirtQueue(hal, transport, 0)):
                assert peer.back_end.requests.count(Request.SET_INFLIGHT_FD) == count
                transport.reset()


def test_a_reset_stops_the_queue_before_the_device_and_its_status() -> None:
    with Peer() as peer:
        disk = peer.disk()
        peer.back_end.requests.clear()
        disk.close()
        assert peer.back_end.requests[:4] == [
            Request.GET_VRING_BASE,
            Request.RESET_DEVICE,
            Request.SET_STATUS,
            Request.GET_STATUS,
        ]


def test_a_reset_is_the_end_of_the_queues_where_there_is_no_message_for_it() -> None:
    with Peer(LIKE_QEMU) as peer:
        disk = peer.disk()
        peer.back_end.requests.clear()
        disk.close()
        assert peer.back_end.requests == [Request.GET_VRING_BASE]


@BOTH
def test_the_same_transport_is_initialised_again_after_a_reset(protocol: ProtocolFeature) -> None:
    with Peer(protocol) as peer:
        transport, hal = peer.parts(largest_queue=64)
        for _ in range(3):
            assert transport.begin_init(FEATURES) == FEATURES
            with closing(VirtQueue(hal, transport, 0)) as queue:
                transport.finish_init()
                header, status = (
                    Dma(hal, 1, BufferDirection.DriverToDevice),
                    Dma(hal, 1, BufferDirection.DeviceToDriver),
                )
                written = queue.add_notify_wait_pop([(header.paddr, 16)], [(status.paddr, 513)], 2.0)
                assert written == 513
                transport.reset()
                header.close()
                status.close()


# --- Features ---------------------------------------------------------------------------------------------------------


def test_bits_of_the_protocol_are_hidden_from_drivers_and_accepted_for_them() -> None:
    offered = FEATURES | Feature.ACCESS_PLATFORM | 1 << 26
    with Peer(features=offered) as peer:
        transport, _ = peer.parts()
        assert transport.read_device_features() == FEATURES
        transport.begin_init(lambda features: features)
        assert peer.device.driver_features == FEATURES
        assert Request.SET_FEATURES in peer.back_end.requests, "which the strict back end takes with bit 30 only"


@BOTH
def test_features_that_are_refused_show_as_features_ok_that_does_not_stick(protocol: ProtocolFeature) -> None:
    if not protocol & (ProtocolFeature.REPLY_ACK | ProtocolFeature.STATUS):
        pytest.skip("it has no way to say no")
    with Peer(protocol) as peer:
        peer.device.faults.refuse_features = True
        with pytest.raises(FeaturesRefused, match="the device refused the accepted features"):
            peer.disk()


def test_a_device_without_version_1_is_refused() -> None:
    with Peer(features=FEATURES & ~Feature.VERSION_1) as peer, pytest.raises(FeaturesRefused, match="VERSION_1"):
        peer.disk()


# --- Status -----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_status_is_read_back_whoever_keeps_it(protocol: ProtocolFeature) -> None:
    with Peer(protocol) as peer:
        disk = peer.disk()
        assert disk.transport.get_status() == DeviceStatus(15)
        assert bool(protocol & ProtocolFeature.STATUS) == (Request.GET_STATUS in peer.back_end.requests)


@BOTH
def test_an_error_that_the_back_end_tells_of_shows_in_the_status_until_the_reset(protocol: ProtocolFeature) -> None:
    with Peer(protocol) as peer:
        disk = peer.disk()
        peer.device.hold = True
        token = disk.submit_read(0, 512)
        peer.back_end.needs_reset()
        for _ in range(2):
            assert disk.transport.get_status() & DeviceStatus.DEVICE_NEEDS_RESET
        with pytest.raises(DeviceLost, match="asks to be reset"):
            disk.wait(token, 30)
        assert disk.transport.get_status() == 0


# --- Queues -----------------------------------------------------------------------------------------------------------


def test_a_queue_that_is_not_there_has_no_size_and_cannot_be_set_up() -> None:
    with Peer() as peer:
        transport, hal = peer.parts(largest_queue=64)
        transport.begin_init(FEATURES)
        assert [transport.max_queue_size(queue) for queue in (-1, 0, 1, 1 << 40)] == [0, 64, 0, 0]
        with pytest.raises(TransportError, match="no queue 1"):
            VirtQueue(hal, transport, 1)
        for queue, size in ((1, 4), (0, 0), (0, 128)):
            with pytest.raises(InvalidParam):
                transport.queue_set(queue, size, PhysAddr(0), PhysAddr(0), PhysAddr(0))
        with pytest.raises(InvalidParam, match="is not set up"):
            transport.notify(0)


def test_a_queue_is_set_up_once_and_again_after_it_was_unset() -> None:
    with Peer() as peer:
        disk = peer.disk()
        areas = disk.virtqueues[0]._areas
        with pytest.raises(AlreadyUsed):
            disk.transport.queue_set(0, 64, areas.desc[0], areas.driver[0], areas.device[0])
        assert disk.transport.queue_used(0)
        disk.transport.queue_unset(0)
        disk.transport.queue_unset(0)
        assert not disk.transport.queue_used(0)


@pytest.mark.parametrize("at", SETTING_UP_A_QUEUE)
def test_a_queue_that_the_back_end_refuses_leaves_nothing_behind(at: Request) -> None:
    with Peer() as peer:
        transport, hal = peer.parts(largest_queue=64)
        transport.begin_init(FEATURES)
        peer.back_end.faults = PeerFaults(at=at, refuse=True)
        with pytest.raises(BackEndRefused, match=f"refused ({at.name}|queue 0 with 64 descriptors)"):
            VirtQueue(hal, transport, 0)
        assert not transport.queue_used(0)
        transport.reset()


def test_how_many_queues_there_are_is_the_types_where_the_back_end_does_not_tell() -> None:
    with Peer(LEAST) as peer:
        transport, _ = peer.parts(device_type=DeviceType.Console)
        assert transport.device_type() == DeviceType.Console
        assert [bool(transport.max_queue_size(queue)) for queue in range(3)] == [True, True, False]


# --- Configuration ----------------------------------------------------------------------------------------------------


def test_fields_of_every_width_are_read_and_written() -> None:
    with Peer(features=FEATURES | BlkFeature.CONFIG_WCE) as peer:
        disk = peer.disk()
        assert disk.transport.read_config_space(0, 8) == SIZE // 512
        assert disk.transport.read_config_space(20, 4) == 512
        disk.transport.write_config_space(32, 1, 1)
        assert disk.transport.read_config_space(32, 1) == 1
        assert peer.device.config[32] == 1


@pytest.mark.parametrize(("offset", "width"), [(0, 3), (-1, 1), (1, 2), (2, 4), (4, 0), (0, 16)])
def test_what_is_no_field_is_refused(offset: int, width: int) -> None:
    with Peer() as peer:
        transport, _ = peer.parts()
        with pytest.raises(InvalidParam):
            transport.read_config_space(offset, width)
        with pytest.raises(InvalidParam):
            transport.write_config_space(offset, width, 0)


@pytest.mark.parametrize("offset", [60, 252, 256, 1 << 40])
def test_a_field_behind_the_end_is_refused(offset: int) -> None:
    with Peer() as peer:
        disk = peer.disk()
        with pytest.raises(ConfigSpaceTooSmall):
            disk.transport.read_config_space(offset, 4)
        with pytest.raises((ConfigSpaceTooSmall, BackEndRefused)):
            disk.transport.write_config_space(offset, 4, 0)
        assert disk.read(0, 512) == bytes(512)


@pytest.mark.parametrize("value", [-1, 256])
def test_a_value_that_does_not_fit_its_field_is_refused(value: int) -> None:
    with Peer() as peer:
        transport, _ = peer.parts()
        with pytest.raises(InvalidParam, match="does not fit"):
            transport.write_config_space(32, 1, value)


def test_a_back_end_without_config_has_no_configuration_space() -> None:
    with Peer(ProtocolFeature.MQ) as peer:
        transport, _ = peer.parts()
        with pytest.raises(ConfigSpaceMissing):
            transport.read_config_space(0, 1)


def test_a_back_end_without_protocol_features_is_driven_as_far_as_that_goes() -> None:
    with Peer(ProtocolFeature(0)) as peer:
        transport, hal = peer.parts(largest_queue=64)
        transport.begin_init(FEATURES)
        with closing(VirtQueue(hal, transport, 0)):
            transport.finish_init()
            assert Request.SET_VRING_ENABLE not in peer.back_end.requests
            transport.reset()


def test_the_generation_counts_the_changes_that_the_back_end_tells_of() -> None:
    with Peer() as peer:
        disk = peer.disk()
        disk.read(0, 512)
        assert disk.transport.has_config_generation
        before = disk.transport.read_config_generation()
        peer.device.set_config(BlkConfig.capacity.offset, 8, 4096)
        assert disk.transport.read_config_generation() == before + 1
        assert disk.transport.ack_interrupt() == InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT
        assert not disk.transport.ack_interrupt()
        assert disk.transport.read_config_space(0, 8) == 4096


def test_a_back_end_that_cannot_tell_of_changes_has_no_generation() -> None:
    with Peer(LEAST) as peer:
        disk = peer.disk()
        assert not disk.transport.has_config_generation
        assert disk.transport.read_config_generation() == 0
        assert not disk.transport.ack_interrupt()


# --- Interrupts -------------------------------------------------------------------------------------------------------


def test_a_call_wakes_who_waits_for_it_and_is_seen_once() -> None:
    with Peer() as peer:
        disk = peer.disk()
        line = disk.hal.interrupt()
        assert line is not None
        assert (line.kind, line.needs_ack) == ("eventfd", False)
        assert not line.wait(0)
        disk.virtqueues[0].set_dev_notify(True)
        token = disk.submit_read(0, 512)
        assert line.wait(30)
        assert not line.wait(0)
        assert disk.complete(token) == bytes(512)
        line.close()
        assert not line.wait(0)


def test_a_queue_with_a_vector_has_a_line_of_its_own() -> None:
    with Peer() as peer:
        transport, hal = peer.parts(largest_queue=64)
        transport.queue_vectors[0] = 5
        own, shared = hal.interrupt(5), hal.interrupt()
        assert own is not None
        assert shared is not None
        transport.begin_init(FEATURES)
        with closing(VirtQueue(hal, transport, 0)) as queue:
            queue.use_interrupt(own)
            transport.finish_init()
            header, status = Dma(hal, 1, BufferDirection.DriverToDevice), Dma(hal, 1, BufferDirection.DeviceToDriver)
            queue.add_notify_wait_pop([(header.paddr, 16)], [(status.paddr, 513)], 2.0)
            assert not shared.wait(0)
            transport.reset()


@pytest.mark.parametrize("vector", [-1, 2048])
def test_a_vector_that_cannot_be_is_refused(vector: int) -> None:
    with Peer() as peer:
        _, hal = peer.parts()
        with pytest.raises(InvalidParam):
            hal.interrupt(vector)


def test_who_waits_for_a_call_hears_of_the_back_ends_death() -> None:
    with Peer() as peer:
        disk = peer.disk()
        line = disk.hal.interrupt()
        assert line is not None
        peer.back_end.hang_up()
        began = time.monotonic()
        with pytest.raises(DeviceLost, match="is gone"):
            line.wait(30)
        assert time.monotonic() - began < SLACK


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_memory_is_at_made_up_addresses_and_is_shared_with_the_back_end() -> None:
    with Peer() as peer:
        _, hal = peer.parts()
        with Dma(hal, 1, BufferDirection.Both) as memory:
            memory.view[:4] = b"ours"
            mapped = peer.back_end.device.hal
            there = mapped.translate(memory.paddr, 4096, True)
            assert there != memory.vaddr
            assert hal.vaddr_of(memory.paddr) == memory.vaddr
            assert ctypes.string_at(there, 4) == b"ours"
            ctypes.memmove(there, b"them", 4)
            assert memory.view[:4] == b"them"


def test_the_back_end_cannot_make_the_memory_shorter() -> None:
    with Peer() as peer:
        _, hal = peer.parts()
        with Dma(hal, 1, BufferDirection.Both), pytest.raises(PermissionError):
            os.ftruncate(hal._regions[0].fd, 0)


def test_more_memory_is_given_while_the_device_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VhostHal, "region_bytes", 8 << 20)
    with Peer() as peer:
        disk = peer.disk()
        with Dma(disk.hal, (9 << 20) >> 12, BufferDirection.Both):
            assert peer.back_end.requests.count(Request.ADD_MEM_REG) == 2
            assert disk.read(0, 512) == bytes(512)


def test_a_back_end_without_slots_gets_no_more_memory_while_it_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VhostHal, "region_bytes", 8 << 20)
    with Peer(LEAST) as peer:
        disk = peer.disk()
        with pytest.raises(DmaError, match="takes no more while it is at work"):
            Dma(disk.hal, (9 << 20) >> 12, BufferDirection.Both)
        assert disk.read(0, 512) == bytes(512)


@pytest.mark.parametrize(("protocol", "most"), [(EVERYTHING, MOST_SLOTS), (LEAST, 8)])
def test_no_more_regions_are_given_than_the_back_end_takes(protocol: ProtocolFeature, most: int) -> None:
    with Peer(protocol) as peer:
        _, hal = peer.parts()
        hal.region_bytes = hal.arena_bytes = 4096
        held = [Dma(hal, 1, BufferDirection.Both) for _ in range(most)]
        with pytest.raises(DmaError):
            Dma(hal, 1, BufferDirection.Both)
        assert len({memory.paddr >> 36 for memory in held}) == most


def test_memory_that_is_too_much_is_refused_with_what_the_system_says() -> None:
    with Peer() as peer:
        _, hal = peer.parts()
        with pytest.raises(DmaError, match="cannot map"):
            hal.dma_alloc(1 << 50, BufferDirection.Both)
        assert hal.dma_alloc(1, BufferDirection.Both)


def test_there_are_no_registers_in_memory_and_no_ports() -> None:
    with Peer() as peer:
        _, hal = peer.parts()
        with pytest.raises(Unsupported):
            hal.mmio_phys_to_virt(PhysAddr(0xFEB0_0000), 0x200)
        with pytest.raises(Unsupported):
            hal.port_region(0x1F0, 8)


def test_a_child_neither_hangs_up_nor_ends_what_is_the_parents() -> None:
    with Peer() as peer:
        disk = peer.disk()
        disk.write(0, b"x" * 512)
        pid = os.fork()
        if pid == 0:
            try:
                disk.close()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert disk.read(0, 512) == b"x" * 512


def test_the_hal_says_what_its_connection_is_up_to() -> None:
    with Peer() as peer:
        transport, hal = peer.parts()
        assert isinstance(hal, VhostHal)
        hal.check()
        transport.close()
        with pytest.raises(OSError, match="closed"):
            hal.check()
