"""The vhost-vdpa transport over a strict model of the kernel: a whole disk through it, and what it refuses."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import (
    AlreadyUsed,
    ConfigSpaceMissing,
    ConfigSpaceTooSmall,
    DeviceLost,
    FeaturesRefused,
    InvalidParam,
    SetupError,
    TransportError,
)
from hwloop.hal import vhost_vdpa_ioctl as vdpa
from hwloop.hal.vhost_vdpa import VhostVdpaHal
from hwloop.queue import VirtQueue
from hwloop.spec import DeviceStatus, DeviceType, Feature, InterruptStatus, PhysAddr
from hwloop.transport import TRANSPORTS
from hwloop.transport.fake_device import FakeDevice
from hwloop.transport.vhost_vdpa import VhostVdpaTransport
from tests.unit.hwloop.transport.vdpa_kernel import MODERN_DISK, VdpaKernel, disk_kernel

AREAS = (PhysAddr(0x1000), PhysAddr(0x2000), PhysAddr(0x3000))
LIVE = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VdpaKernel:
    return disk_kernel(tmp_path, monkeypatch)


@pytest.fixture
def hal(kernel: VdpaKernel) -> Iterator[VhostVdpaHal]:
    with VhostVdpaHal(kernel.path) as hal:
        yield hal


def disk_of(kernel: VdpaKernel) -> FakeBlk:
    assert isinstance(kernel.device, FakeBlk)
    return kernel.device


def test_it_is_in_the_table() -> None:
    assert TRANSPORTS.get("vhost-vdpa") is VhostVdpaTransport


# --- A whole device ---------------------------------------------------------------------------------------------------


def test_a_disk_is_written_read_and_left(kernel: VdpaKernel, hal: VhostVdpaHal) -> None:
    with VirtioBlk(VhostVdpaTransport(hal), hal) as disk:
        disk.write(1, b"v" * 1024)
        disk.flush()
        assert bytes(disk.read(0, 2048)) == bytes(512) + b"v" * 1024 + bytes(512)
        assert disk_of(kernel).durable[512:1536] == b"v" * 1024
        assert kernel.device.status == LIVE
    assert kernel.device.status_writes[-1] == 0
    assert (kernel.nodes, kernel.mapped) == (set(), {})


def test_a_disk_is_waited_for_by_its_calls_and_the_one_for_nothing_does_no_harm(
    kernel: VdpaKernel, hal: VhostVdpaHal
) -> None:
    with VirtioBlk(VhostVdpaTransport(hal), hal, request_seconds=2) as disk:
        disk.enable_interrupts()
        (queue,) = disk.virtqueues
        assert not queue.wait(0.5), "the call at DRIVER_OK ends the wait and brings nothing"
        assert queue.interrupts == 1
        disk.write(0, b"i" * 512)
        assert disk_of(kernel).data[:512] == b"i" * 512


def test_the_owner_and_every_step_come_in_the_order_that_the_kernel_wants(
    kernel: VdpaKernel, hal: VhostVdpaHal
) -> None:
    with VirtioBlk(VhostVdpaTransport(hal), hal):
        calls = [call for call in kernel.calls if call not in (vdpa.GET_CONFIG, vdpa.GET_STATUS)]
    queue = [
        vdpa.SET_VRING_NUM, vdpa.SET_VRING_BASE, vdpa.SET_VRING_ADDR, vdpa.SET_VRING_KICK, vdpa.SET_VRING_CALL,
        vdpa.SET_VRING_ENABLE,
    ]  # fmt: skip
    start = calls.index(vdpa.SET_VRING_NUM)
    assert calls[start : start + 6] == queue
    assert calls[start + 6 : start + 8] == [vdpa.SET_CONFIG_CALL, vdpa.SET_STATUS]


def test_the_device_is_reset_and_driven_again_through_the_same_node(kernel: VdpaKernel, hal: VhostVdpaHal) -> None:
    transport = VhostVdpaTransport(hal)
    for round_number in range(2):
        transport.begin_init(MODERN_DISK)
        queue = VirtQueue(hal, transport, 0)
        transport.finish_init()
        assert transport.queue_used(0), round_number
        transport.reset()
        assert not transport.queue_used(0)
        queue.close()


# --- What does not change ---------------------------------------------------------------------------------------------


def test_the_type_and_the_shape_are_told_by_the_node(kernel: VdpaKernel, hal: VhostVdpaHal) -> None:
    transport = VhostVdpaTransport(hal)
    assert transport.device_type() == DeviceType.Block
    assert [transport.max_queue_size(queue) for queue in (-1, 0, 1)] == [0, 64, 0]
    assert transport.config_size == len(kernel.device.config)
    assert not transport.requires_legacy_layout()
    transport.set_guest_page_size(4096)


def test_a_type_that_does_not_exist_is_an_error(
    kernel: VdpaKernel, hal: VhostVdpaHal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel.device, "device_type", 4711)
    with pytest.raises(TransportError, match="is of type 4711, which is no virtio device"):
        VhostVdpaTransport(hal)


@pytest.mark.parametrize("request_number", [vdpa.GET_VQS_COUNT, vdpa.GET_CONFIG_SIZE])
def test_a_kernel_that_is_too_old_is_explained(kernel: VdpaKernel, hal: VhostVdpaHal, request_number: int) -> None:
    kernel.fail[request_number] = errno.ENOTTY
    with pytest.raises(SetupError, match=r"too old: it cannot tell .*; use Linux 5\.18 or newer"):
        VhostVdpaTransport(hal)


# --- Features and status ----------------------------------------------------------------------------------------------


def test_features_that_there_is_no_call_for_are_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = disk_kernel(
        tmp_path, monkeypatch, features=MODERN_DISK | Feature.RING_RESET | Feature.NOTIFICATION_DATA | Feature.EVENT_IDX
    )
    with VhostVdpaHal(kernel.path) as hal:
        assert VhostVdpaTransport(hal).read_device_features() == MODERN_DISK | Feature.EVENT_IDX


def test_a_device_that_refuses_the_features_is_marked_failed(kernel: VdpaKernel, hal: VhostVdpaHal) -> None:
    kernel.device.faults.refuse_features = True
    with pytest.raises(FeaturesRefused):
        VhostVdpaTransport(hal).begin_init(MODERN_DISK)
    assert kernel.device.status & DeviceStatus.FAILED


def test_a_call_that_the_device_refuses_says_which_it_was(kernel: VdpaKernel, hal: VhostVdpaHal) -> None:
    transport = VhostVdpaTransport(hal)
    kernel.fail[vdpa.SET_FEATURES] = errno.EINVAL
    with pytest.raises(TransportError, match="did not accept the features 0x300000a40: Invalid argument") as caught:
        transport.begin_init(MODERN_DISK)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("code", [errno.EIO, errno.ENODEV, errno.ETIMEDOUT])
def test_a_device_whose_reset_fails_is_lost(kernel: VdpaKernel, hal: VhostVdpaHal, code: int) -> None:
    transport = VhostVdpaTransport(hal)
    kernel.fail[vdpa.SET_STATUS] = code
    with pytest.raises(DeviceLost, match="does not answer any more: it did not write the device status 0x0"):
        transport.reset()


def test_a_node_that_is_closed_is_a_lost_device(kernel: VdpaKernel) -> None:
    with VhostVdpaHal(kernel.path) as hal:
        transport = VhostVdpaTransport(hal)
    with pytest.raises(DeviceLost, match="not open in this process"):
        transport.get_status()


# --- Queues -----------------------------------------------------------------------------------------------------------


def negotiated(hal: VhostVdpaHal, features: int = MODERN_DISK) -> VhostVdpaTransport:
    transport = VhostVdpaTransport(hal)
    transport.begin_init(features)
    return transport


def mapped_areas(hal: VhostVdpaHal) -> tuple[PhysAddr, PhysAddr, PhysAddr]:
    from hwloop.hal.base import BufferDirection

    base, _ = hal.dma_alloc(4, BufferDirection.Both)
    return base, PhysAddr(base + 0x1000), PhysAddr(base + 0x2000)


@pytest.mark.parametrize(("queue", "size"), [(1, 16), (-1, 16), (0, 0), (0, 65), (0, 128), (0, 48)])
def test_a_queue_that_the_device_has_not_is_refused_before_the_kernel_is_asked(
    kernel: VdpaKernel, hal: VhostVdpaHal, queue: int, size: int
) -> None:
    transport = negotiated(hal)
    before = len(kernel.calls)
    with pytest.raises(InvalidParam, match=f"queue {queue} cannot have {size} descriptors"):
        transport.queue_set(queue, size, *AREAS)
    assert len(kernel.calls) == before


def test_a_queue_is_set_up_once(kernel: VdpaKernel, hal: VhostVdpaHal) -> None:
    transport = negotiated(hal)
    transport.queue_set(0, 16, *mapped_areas(hal))
    with pytest.raises(AlreadyUsed, match="queue 0 is set up already; reset the device first"):
        transport.queue_set(0, 16, *AREAS)
    transport.queue_unset(0)
    assert transport.queue_used(0), "only a reset stops it"


@pytest.mark.parametrize(
    "request_number",
    [vdpa.SET_VRING_NUM, vdpa.SET_VRING_ADDR, vdpa.SET_VRING_KICK, vdpa.SET_VRING_CALL, vdpa.SET_VRING_ENABLE],
)
def test_a_queue_that_the_kernel_refuses_is_not_in_use(
    kernel: VdpaKernel, hal: VhostVdpaHal, request_number: int
) -> None:
    transport = negotiated(hal)
    areas = mapped_areas(hal)
    kernel.fail[request_number] = errno.EINVAL
    with pytest.raises(TransportError, match="did not set up queue 0: Invalid argument"):
        transport.queue_set(0, 16, *areas)
    assert not transport.queue_used(0)
    with pytest.raises(InvalidParam, match="queue 0 is not set up, so it cannot be notified"):
        transport.notify(0)
    kernel.fail.clear()
    transport.queue_set(0, 16, *areas)


@pytest.mark.parametrize(("features", "base"), [(0, 0), (Feature.RING_PACKED, 0x8000_8000)])
def test_a_ring_begins_at_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: int, base: int
) -> None:
    """A packed one with both wrap counters at 1 (VIRTIO 1.4, 2.8.1)."""
    kernel = disk_kernel(tmp_path, monkeypatch, features=MODERN_DISK | features)
    with VhostVdpaHal(kernel.path) as hal:
        transport = negotiated(hal, MODERN_DISK | features)
        # The device side of this model is of split rings; how the kernel is told is the same.
        monkeypatch.setattr(kernel.device, "enable", lambda index: None)
        transport.queue_set(0, 16, *mapped_areas(hal))
        assert kernel.bases == {0: base}


def test_a_queue_calls_the_eventfd_of_its_vector(kernel: VdpaKernel, hal: VhostVdpaHal) -> None:
    transport = VhostVdpaTransport(hal)
    transport.queue_vectors[0] = 2
    with VirtioBlk(transport, hal) as disk, hal.interrupt(2) as line, hal.interrupt() as other:
        assert line.wait(0), "the call at DRIVER_OK"
        disk.virtqueues[0].use_interrupt(line)
        disk.write(0, b"q" * 512)
        assert disk.virtqueues[0].interrupts <= 1
        assert not other.wait(0)


# --- Configuration ----------------------------------------------------------------------------------------------------


def test_fields_are_read_by_one_call_of_their_width(kernel: VdpaKernel, hal: VhostVdpaHal) -> None:
    transport = VhostVdpaTransport(hal)
    before = len(kernel.calls)
    assert transport.read_config_space(0, 8) == (1 << 20) // 512
    assert kernel.calls[before:] == [vdpa.GET_CONFIG]
    assert transport.read_config_generation() == 0
    assert transport.read_consistent(lambda: transport.read_config_space(20, 4)) == 512
    assert kernel.calls[before:] == [vdpa.GET_CONFIG] * 3, "without a generation everything is read twice"


def test_fields_are_written_by_one_call(kernel: VdpaKernel, hal: VhostVdpaHal) -> None:
    transport = negotiated(hal)
    transport.write_config_space(32, 1, 1)
    assert kernel.device.config[32] == 1
    with pytest.raises(InvalidParam, match="0x100 does not fit 1 bytes"):
        transport.write_config_space(32, 1, 0x100)


@pytest.mark.parametrize(("offset", "width", "kind"), [(60, 8, ConfigSpaceTooSmall), (0, 3, InvalidParam)])
def test_what_is_no_field_is_refused_before_the_kernel_is_asked(
    kernel: VdpaKernel, hal: VhostVdpaHal, offset: int, width: int, kind: type[OSError]
) -> None:
    transport = VhostVdpaTransport(hal)
    before = len(kernel.calls)
    with pytest.raises(kind):
        transport.read_config_space(offset, width)
    assert len(kernel.calls) == before


def test_a_device_without_a_configuration_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = VdpaKernel(
        tmp_path, monkeypatch, lambda hal: FakeDevice(hal, DeviceType.EntropySource, MODERN_DISK, [8], b"")
    )
    with VhostVdpaHal(kernel.path) as hal:
        transport = VhostVdpaTransport(hal)
        assert transport.device_type() == DeviceType.EntropySource
        with pytest.raises(ConfigSpaceMissing):
            transport.read_config_space(0, 1)


def test_a_change_of_the_configuration_is_told_once_acknowledged(kernel: VdpaKernel, hal: VhostVdpaHal) -> None:
    with VirtioBlk(VhostVdpaTransport(hal), hal) as disk, hal.interrupt() as line:
        line.wait(0)
        assert disk.transport.ack_interrupt() == InterruptStatus(0)
        kernel.device.config_changed()
        assert line.wait(0)
        assert disk.transport.ack_interrupt() == InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT
        assert not line.wait(0)


def test_a_change_of_the_configuration_comes_to_its_vector(kernel: VdpaKernel, hal: VhostVdpaHal) -> None:
    transport = VhostVdpaTransport(hal)
    transport.config_vector = 5
    with VirtioBlk(transport, hal), hal.interrupt(5) as line:
        kernel.device.config_changed()
        assert line.wait(0)
        assert transport.ack_interrupt() == InterruptStatus(0)
