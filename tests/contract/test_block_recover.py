"""A disk that was given up is used again: `recover`. Needs a device in process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwloop.device.blk import VirtioBlk
from hwloop.errors import DeadlineExpired, DeviceClosed, DeviceLost, QueueBroken
from hwloop.hal.fake import DmaFault
from hwloop.queue_options import QueueOptions
from hwloop.spec import DeviceStatus, Feature
from hwloop.transport.base import Transport
from tests.contract.doors import REQUEST_SECONDS, FakeDoor

MIB = 1 << 20


def times_out(disk: VirtioBlk, fake: FakeDoor) -> None:
    fake.device.faults.drop = True
    with pytest.raises(DeadlineExpired):
        disk.read(0, 512)
    fake.device.faults.drop = False


def breaks_the_ring(disk: VirtioBlk, fake: FakeDoor) -> None:
    fake.device.hold = True
    token = disk.submit_read(0, 512)
    ring = fake.device.queues[0].ring
    assert ring is not None
    ring.set_used_idx(40)
    with pytest.raises(QueueBroken):
        disk.wait(token)
    fake.device.hold = False


def asks_for_a_reset(disk: VirtioBlk, fake: FakeDoor) -> None:
    fake.device.hold = True
    token = disk.submit_read(0, 512)
    fake.device.status |= DeviceStatus.DEVICE_NEEDS_RESET
    with pytest.raises(DeviceLost):
        disk.wait(token, 10)
    fake.device.hold = False


def was_reset(disk: VirtioBlk, fake: FakeDoor) -> None:
    fake.device.hold = True
    token = disk.submit_read(0, 512)
    fake.device.reset_itself()
    with pytest.raises(DeviceLost):
        disk.wait(token, 10)
    fake.device.hold = False


@pytest.mark.fault(1, 2, 6, 7, 19)
@pytest.mark.parametrize("trouble", [times_out, breaks_the_ring, asks_for_a_reset, was_reset])
def test_a_disk_in_trouble_is_used_again_after_recover(
    fake: FakeDoor, trouble: Callable[[VirtioBlk, FakeDoor], None]
) -> None:
    disk = fake.open(MIB)
    assert isinstance(disk, VirtioBlk)
    disk.write(0, b"kept" * 128)
    for _ in range(3):
        trouble(disk, fake)
        with pytest.raises(DeviceLost):
            disk.read(0, 512)
        disk.recover()
        assert disk.read(0, 512) == b"kept" * 128
        disk.write(8, b"more" * 128)
        for token in disk.poll():
            with pytest.raises(DeviceLost):
                disk.complete(token)
        assert disk.requests_free == disk.virtqueues[0].free // disk.virtqueues[0].needs(3)


@pytest.mark.fault(1)
def test_what_was_in_flight_stays_failed_after_recover(fake: FakeDoor) -> None:
    disk = fake.open(MIB)
    fake.device.faults.drop = True
    lost = disk.submit_read(8, 512)
    with pytest.raises(DeadlineExpired):
        disk.read(0, 512)
    fake.device.faults.drop = False
    disk.recover()
    token = disk.submit_read(8, 512)
    assert token != lost
    assert disk.wait(token) == bytes(512)
    with pytest.raises(DeviceLost, match="timed out"):
        disk.complete(lost)


@pytest.mark.fault(2)
def test_memory_of_before_is_out_of_reach_after_recover(fake: FakeDoor) -> None:
    disk = fake.open(MIB)
    fake.device.faults.drop = True
    token = disk.submit_read(0, 512)
    late = fake.device.queues[0].held[0].writable[0][0]
    with pytest.raises(DeadlineExpired):
        disk.wait(token)
    with pytest.raises(DmaFault):
        fake.hal.translate(late, 512, True)
    fake.device.faults.drop = False
    disk.recover()
    assert disk.read(0, 512) == bytes(512)


@pytest.mark.fault(3)
def test_a_disk_whose_reset_did_not_end_does_not_recover(fake: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = Transport.reset
    monkeypatch.setattr(Transport, "reset", lambda self, seconds=0.1: patient(self, seconds))
    disk = fake.open(MIB)
    fake.device.faults.drop = True
    token = disk.submit_read(0, 512)
    shared_at = fake.device.queues[0].held[0].writable[0][0]
    fake.device.faults.reset_reads = -1
    with pytest.raises(DeadlineExpired, match="status 0"):
        disk.wait(token)
    fake.device.status_writes.clear()
    with pytest.raises(DeviceLost, match="may still write memory"):
        disk.recover()
    assert fake.device.status_writes == [], "the device is left alone"
    assert fake.hal.translate(shared_at, 512, True), "still mapped: the device may still write it"
    disk.close()
    fake.disk = None
    fake.hal = type(fake.hal)()


def test_a_recovery_that_fails_can_be_tried_again(fake: FakeDoor) -> None:
    disk = fake.open(MIB)
    assert isinstance(disk, VirtioBlk)
    times_out(disk, fake)
    fake.device.faults.ignore_driver_ok = True
    with pytest.raises(DeviceLost, match="did not become ready"):
        disk.recover()
    with pytest.raises(DeviceLost):
        disk.read(0, 512)
    fake.device.faults.ignore_driver_ok = False
    disk.recover()
    assert disk.read(0, 512) == bytes(512)


def test_recovering_a_disk_that_works_fails_what_is_in_flight(fake: FakeDoor) -> None:
    disk = fake.open(MIB)
    fake.device.hold = True
    token = disk.submit_read(0, 512)
    fake.device.hold = False
    disk.recover()
    with pytest.raises(DeviceLost, match="the driver began anew"):
        disk.complete(token)
    assert disk.read(0, 512) == bytes(512)


def test_a_closed_disk_does_not_recover(fake: FakeDoor) -> None:
    disk = fake.open(MIB)
    disk.close()
    with pytest.raises(DeviceClosed):
        disk.recover()


def test_queues_are_new_ones_and_those_of_before_are_closed(fake: FakeDoor) -> None:
    disk = fake.open(MIB)
    assert isinstance(disk, VirtioBlk)
    before = disk.queues[0]
    disk.recover()
    assert disk.queues[0] is not before
    with pytest.raises(DeviceClosed):
        before.reap(1)


# --- One queue by itself ----------------------------------------------------------------------------------------------


@pytest.fixture
def resettable(modern_fake: FakeDoor) -> tuple[VirtioBlk, FakeDoor]:
    """A disk of two queues that can be reset one by one."""
    modern_fake.open(MIB, shape="queues=2").close()
    modern_fake.device.features |= Feature.RING_RESET
    modern_fake.hal = modern_fake.device.hal = type(modern_fake.hal)()
    disk = VirtioBlk(
        modern_fake.transport(), modern_fake.hal, request_seconds=REQUEST_SECONDS,
        options=QueueOptions({"ring-reset": True}, queues=2),
    )  # fmt: skip
    modern_fake.disk = disk
    modern_fake.device.status_writes.clear()
    return disk, modern_fake


@pytest.mark.fault(1, 19)
@pytest.mark.parametrize("trouble", [times_out, breaks_the_ring])
def test_a_queue_in_trouble_is_reset_by_itself_and_begins_anew(
    resettable: tuple[VirtioBlk, FakeDoor], trouble: Callable[[VirtioBlk, FakeDoor], None]
) -> None:
    disk, fake = resettable
    for _ in range(3):
        trouble(disk, fake)
        assert fake.device.status & DeviceStatus.DRIVER_OK, "the device was not reset"
        assert not fake.device.queues[0].enabled
        assert fake.device.queues[1].enabled, "the other queue goes on"
        with pytest.raises(DeviceLost):
            disk.read(0, 512)
        disk.recover()
        assert disk.read(0, 512) == bytes(512)
    assert fake.device.status_writes == []


@pytest.mark.fault(2)
def test_buffers_are_not_used_again_before_the_queue_reset_is_confirmed(
    resettable: tuple[VirtioBlk, FakeDoor],
) -> None:
    disk, fake = resettable
    fake.device.faults.drop = True
    token = disk.submit_read(0, 512)
    shared_at = fake.device.queues[0].held[0].writable[0][0]
    fake.device.faults.queue_reset_reads = 5
    shared: list[int] = []
    stop = disk.transport.queue_unset

    def watched(queue: int) -> None:
        stop(queue)
        shared.append(fake.hal.translate(shared_at, 512, True))

    disk.transport.queue_unset = watched  # type: ignore[method-assign]
    with pytest.raises(DeadlineExpired):
        disk.wait(token)
    assert shared, "it was, until the reset was confirmed"
    with pytest.raises(DmaFault):
        fake.hal.translate(shared_at, 512, True)


@pytest.mark.fault(1)
def test_a_queue_that_does_not_stop_takes_the_whole_device_with_it(
    resettable: tuple[VirtioBlk, FakeDoor], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, fake = resettable
    for module in ("fake", "mmio", "pci_modern"):
        monkeypatch.setattr(f"hwloop.transport.{module}.RESET_SECONDS", 0.05)
    fake.device.faults.queue_reset_reads = -1
    times_out(disk, fake)
    assert fake.device.status == 0
    assert fake.device.status_writes == [0]
    fake.device.faults.queue_reset_reads = 0
    disk.recover()
    assert disk.read(0, 512) == bytes(512)


@pytest.mark.fault(6)
def test_a_device_that_asks_for_a_reset_gets_it_though_queues_could_be_reset(
    resettable: tuple[VirtioBlk, FakeDoor],
) -> None:
    disk, fake = resettable
    asks_for_a_reset(disk, fake)
    assert fake.device.status_writes[:1] == [0]
    disk.recover()
    assert disk.read(0, 512) == bytes(512)
