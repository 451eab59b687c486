"""What the driver does when the device is slow, wrong, hostile or gone. Needs a device in process."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_protocol import BlkConfig, RequestType
from hwloop.device.block import LARGEST_TRANSFER
from hwloop.errors import (
    DeadlineExpired,
    DeviceClosed,
    DeviceError,
    DeviceLost,
    FeaturesRefused,
    HwloopError,
    IoError,
    NotReady,
    QueueBroken,
    QueueFull,
    Unsupported,
    exit_code_of,
)
from hwloop.spec import BlkFeature, DeviceStatus, Feature, PhysAddr
from tests.contract.doors import REQUEST_SECONDS, FakeDoor
from tests.timing import SLACK

MIB = 1 << 20
LIVE = DeviceStatus(15)
"""How a driver that ended without a word leaves a device."""


def opened(fake: FakeDoor, size: int = MIB, *, patient: bool = False, **wants: object) -> VirtioBlk:
    """A disk; a `patient` one for tests whose time depends on another thread."""
    disk = fake.open(size, **wants)
    disk._request_seconds = 10 if patient else REQUEST_SECONDS
    fake.device.status_writes.clear()
    return disk


# --- Out of order, late, lost -----------------------------------------------------------------------------------------


def test_requests_complete_in_any_order(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.data[:] = bytes(range(256)) * (MIB // 256)
    fake.device.hold = True
    tokens = [disk.submit_read(i, 512) for i in range(8)]
    fake.device.release(backwards=True)
    assert disk.poll() == tokens[::-1]
    for token in tokens:
        assert len(disk.complete(token)) == 512


def test_a_request_in_flight_is_not_ready(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.hold = True
    token = disk.submit_read(0, 512)
    assert disk.poll() == []
    with pytest.raises(NotReady) as caught:
        disk.complete(token)
    assert caught.value.errno == errno.EAGAIN
    fake.device.release()
    assert disk.complete(token) == bytes(512)


@pytest.mark.fault(51)
def test_a_full_queue_refuses_submissions_until_something_completes(fake: FakeDoor) -> None:
    disk = opened(fake, queue_size=8)
    fake.device.hold = True
    tokens = [disk.submit_read(0, 512) for _ in range(disk.requests_free)]
    assert disk.requests_free == 0
    with pytest.raises(QueueFull):
        disk.submit_read(0, 512)
    fake.device.release(count=1)
    assert disk.submit_read(0, 512) not in tokens


def test_a_call_waits_for_a_place_in_a_full_queue(fake: FakeDoor) -> None:
    disk = opened(fake, patient=True, queue_size=8)
    fake.device.hold = True
    tokens = [disk.submit_read(0, 512) for _ in range(disk.requests_free)]

    def free_the_queue() -> None:
        time.sleep(0.01)
        fake.device.hold = False
        fake.device.release()

    helper = threading.Thread(target=free_the_queue)
    helper.start()
    assert disk.read(8, 512) == bytes(512)
    helper.join()
    for token in tokens:
        disk.complete(token)


@pytest.mark.fault(27)
def test_a_lost_notification_is_made_up_for(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.faults.lose_notifications = 1
    assert disk.read(0, 512) == bytes(512)
    assert disk.virtqueues[0].notifications == 2


def test_only_one_reminder_is_sent(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.faults.lose_notifications = 100
    with pytest.raises(DeadlineExpired):
        disk.read(0, 512)
    assert disk.virtqueues[0].notifications == 2


# --- The end of patience ----------------------------------------------------------------------------------------------


@pytest.mark.fault(1)
def test_a_device_that_never_completes_costs_the_deadline_and_is_reset(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.faults.drop = True
    began = time.monotonic()
    with pytest.raises(DeadlineExpired) as caught:
        disk.read(0, 512)
    assert REQUEST_SECONDS <= time.monotonic() - began < REQUEST_SECONDS + SLACK
    assert caught.value.errno == errno.ETIMEDOUT
    assert exit_code_of(caught.value) == 5
    assert fake.device.status_writes == [0]
    assert fake.device.status == 0


def test_the_error_of_a_timeout_shows_both_sides_of_the_ring_and_the_status(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.faults.drop = True
    with pytest.raises(DeadlineExpired) as caught:
        disk.read(0, 512)
    notes = "\n".join(caught.value.__notes__)
    assert "queue 0: outstanding" in notes
    assert "queue 0: shared" in notes
    assert "device status: DeviceStatus(ACKNOWLEDGE | DRIVER | DRIVER_OK" in notes


def test_after_a_timeout_other_requests_fail_and_later_calls_say_why(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.faults.drop = True
    other = disk.submit_read(8, 512)
    with pytest.raises(DeadlineExpired):
        disk.read(0, 512)
    for use in (lambda: disk.complete(other), lambda: disk.read(0, 512), disk.flush, lambda: disk.submit_read(0, 512)):
        with pytest.raises(DeviceLost, match="timed out after") as caught:
            use()
        assert isinstance(caught.value.__cause__, DeadlineExpired)


@pytest.mark.fault(1, 2)
def test_buffers_are_not_used_again_before_the_reset(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.faults.drop = True
    token = disk.submit_read(0, 512)
    chain = fake.device.queues[0].held[0]
    shared_at = chain.writable[0][0]
    before_reset: list[bool] = []
    reset = fake.device._start_reset

    def watched_reset() -> None:
        if not before_reset:
            fake.hal.translate(shared_at, 512, True)
            before_reset.append(True)
        reset()

    fake.device._start_reset = watched_reset  # type: ignore[method-assign]
    with pytest.raises(DeadlineExpired):
        disk.wait(token)
    assert before_reset == [True], "the buffer was shared until the device had been told to reset"


@pytest.mark.fault(2)
def test_a_completion_after_the_reset_changes_nothing(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.faults.drop = True
    token = disk.submit_read(0, 512)
    late = fake.device.queues[0]
    with pytest.raises(DeadlineExpired):
        disk.wait(token)
    assert late.ring is not None
    late.ring.complete(late.held[0].head, 513)
    assert disk.poll() == []
    with pytest.raises(DeviceLost):
        disk.read(0, 512)


def test_requests_that_others_complete_do_not_stretch_the_deadline(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.hold = True
    token = disk.submit_read(0, 512)
    stuck = fake.device.queues[0].held.pop()
    fake.device.hold = False
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            try:
                disk.read(8, 512)
            except HwloopError:
                return

    helper = threading.Thread(target=keep_busy)
    helper.start()
    began = time.monotonic()
    with pytest.raises(DeadlineExpired):
        disk.wait(token)
    assert time.monotonic() - began < REQUEST_SECONDS + SLACK
    stop.set()
    helper.join()
    assert stuck.head >= 0


def test_a_wait_of_its_own_length_is_kept(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.faults.drop = True
    with pytest.raises(DeadlineExpired) as caught:
        disk.wait(disk.submit_read(0, 512), 0.02)
    assert caught.value.seconds == 0.02


def test_an_abandoned_request_leaves_nothing_behind(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.hold = True
    in_flight, done = disk.submit_read(0, 512), disk.submit_read(8, 512)
    fake.device.release(backwards=True, count=2)
    disk.poll()
    again = disk.submit_read(0, 512)
    disk.abandon(again)
    disk.abandon(done)
    fake.device.release()
    assert disk.poll() == [in_flight]
    assert disk.complete(in_flight) == bytes(512)
    assert len(disk._done) == len(disk._in_flight) == 0
    assert disk.requests_free == 21, "a third of 64 descriptors"


def test_what_other_threads_read_is_not_in_poll(fake: FakeDoor) -> None:
    disk = opened(fake, patient=True)
    fake.device.hold = True
    helper = threading.Thread(target=disk.read, args=(0, 512))
    helper.start()
    while not fake.device.queues[0].held:
        time.sleep(0.001)
    with disk._lock:
        fake.device.release()
        assert disk.poll() == []
    helper.join()


# --- Status bytes and lengths -----------------------------------------------------------------------------------------


@pytest.mark.fault(14, 17, 18)
@pytest.mark.parametrize(
    ("fault", "kind", "code", "words"),
    [
        ("io_error", IoError, errno.EIO, "IN at sector 8: the device reports an I/O error"),
        ("undefined_status", IoError, errno.EIO, "undefined status 0x77"),
        ("no_status", IoError, errno.EIO, "did not write the status"),
        ("unsupported", IoError, errno.EOPNOTSUPP, "does not support this request"),
    ],
)
def test_a_failed_request_is_an_error_and_the_next_one_is_fine(
    fake: FakeDoor, fault: str, kind: type[HwloopError], code: int, words: str
) -> None:
    disk = opened(fake)
    setattr(fake.device.blk_faults, fault, 1)
    with pytest.raises(kind, match=words) as caught:
        disk.read(8, 512)
    assert caught.value.errno == code
    assert disk.read(8, 512) == bytes(512)
    assert disk.requests_free == 21


@pytest.mark.fault(21)
def test_a_device_that_wrote_less_than_it_says_is_not_believed(modern_fake: FakeDoor) -> None:
    disk = opened(modern_fake)
    modern_fake.device.blk_faults.short_length = 1
    buffer = bytearray(b"mine" * 128)
    with pytest.raises(IoError, match=r"IN at sector 8: .*wrote 1 of 513 bytes") as caught:
        disk.read_into(8, buffer)
    assert caught.value.errno == errno.EIO
    assert buffer == b"mine" * 128
    assert disk.read(8, 512) == bytes(512)
    assert disk.requests_free == 21


def test_the_length_that_a_legacy_device_reports_means_nothing(legacy_fake: FakeDoor) -> None:
    """VIRTIO 1.4, 5.2.6.3: many of them report a wrong one."""
    disk = opened(legacy_fake)
    legacy_fake.device.data[8 * 512 : 9 * 512] = bytes(range(256)) * 2
    legacy_fake.device.blk_faults.short_length = 1
    assert disk.read(8, 512) == bytes(range(256)) * 2


def test_a_failed_read_leaves_the_callers_buffer_alone(fake: FakeDoor) -> None:
    disk = opened(fake)
    buffer = bytearray(b"mine" * 128)
    for fault in ("io_error", "undefined_status", "no_status"):
        setattr(fake.device.blk_faults, fault, 1)
        with pytest.raises(IoError):
            disk.read_into(0, buffer)
    assert buffer == b"mine" * 128


@pytest.mark.fault(18)
def test_an_old_status_byte_is_never_taken_for_a_new_one(fake: FakeDoor) -> None:
    disk = opened(fake, queue_size=4)
    for _ in range(8):
        disk.read(0, 512)
    fake.device.blk_faults.no_status = 8
    for _ in range(8):
        with pytest.raises(IoError, match="did not write the status"):
            disk.read(0, 512)


def test_a_flush_and_a_write_report_their_errors_too(fake: FakeDoor) -> None:
    disk = opened(fake)
    for use, name in ((disk.flush, "FLUSH"), (lambda: disk.write(8, bytes(512)), "OUT"), (disk.device_id, "GET_ID")):
        fake.device.blk_faults.io_error = 1
        with pytest.raises(IoError, match=f"{name} at sector"):
            use()


def test_a_flush_makes_durable_what_was_written_before(fake: FakeDoor) -> None:
    disk = opened(fake)
    disk.write(0, b"x" * 512)
    assert fake.device.durable[:512] == bytes(512)
    disk.flush()
    assert fake.device.durable[:512] == b"x" * 512
    assert fake.device.requests == [RequestType.OUT, RequestType.FLUSH]


# --- A device that is in trouble --------------------------------------------------------------------------------------


def needs_reset(fake: FakeDoor) -> None:
    fake.device.status |= DeviceStatus.DEVICE_NEEDS_RESET


def resets_itself(fake: FakeDoor) -> None:
    fake.device.reset_itself()


def goes_away(fake: FakeDoor) -> None:
    fake.device.faults.gone = True


@pytest.mark.fault(6, 7, 8)
@pytest.mark.parametrize(
    ("trouble", "words"),
    [(needs_reset, "asks to be reset"), (resets_itself, "somebody else reset"), (goes_away, "unplugged|not answer")],
)
def test_a_device_in_trouble_is_noticed_long_before_the_deadline(
    fake: FakeDoor, trouble: Callable[[FakeDoor], None], words: str
) -> None:
    disk = opened(fake)
    fake.device.hold = True
    tokens = [disk.submit_read(0, 512), disk.submit_write(8, bytes(512))]
    trouble(fake)
    began = time.monotonic()
    with pytest.raises(DeviceLost, match=words) as caught:
        disk.wait(tokens[0], 30)
    assert time.monotonic() - began < SLACK
    assert exit_code_of(caught.value) == 5
    with pytest.raises(DeviceLost, match=words):
        disk.wait(tokens[1])
    with pytest.raises(DeviceLost):
        disk.read(0, 512)
    disk.close()


def test_a_disk_that_was_lost_is_opened_again(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.hold = True
    token = disk.submit_read(0, 512)
    needs_reset(fake)
    with pytest.raises(DeviceLost):
        disk.wait(token)
    disk.close()
    fake.device.hold = False
    assert fake.reopen().read(0, 512) == bytes(512)


def test_a_device_that_is_gone_when_it_is_closed_is_closed_quietly(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.faults.gone = True
    disk.close()


# --- A hostile used ring ----------------------------------------------------------------------------------------------


@pytest.mark.fault(19, 20, 21)
@pytest.mark.parametrize(
    ("used_id", "length"),
    [
        (64, 513),
        (65, 513),
        (0xFFFF, 513),
        (0x1_0000, 513),
        (0xFFFF_FFFF, 513),
        (1, 513),
        (40, 513),
        (0, 514),
        (0, 0xFFFF_FFFF),
    ],
)
def test_a_completion_that_cannot_be_breaks_the_queue_and_resets_the_device(
    fake: FakeDoor, used_id: int, length: int
) -> None:
    disk = opened(fake)
    fake.device.hold = True
    token = disk.submit_read(0, 512)
    ring = fake.device.queues[0].ring
    assert ring is not None
    ring.put_used(0, used_id, length)
    ring.set_used_idx(1)
    with pytest.raises(QueueBroken, match="queue 0: the device broke the used ring") as caught:
        disk.poll()
    assert exit_code_of(caught.value) == 4
    assert fake.device.status == 0
    with pytest.raises(DeviceLost):
        disk.complete(token)


@pytest.mark.fault(22, 23)
@pytest.mark.parametrize("index", [2, 65, 0xFFFF])
def test_a_used_index_that_jumps_breaks_the_queue(fake: FakeDoor, index: int) -> None:
    disk = opened(fake)
    fake.device.hold = True
    token = disk.submit_read(0, 512)
    ring = fake.device.queues[0].ring
    assert ring is not None
    ring.set_used_idx(index)
    with pytest.raises(QueueBroken):
        disk.wait(token)
    assert fake.device.status == 0


@pytest.mark.fault(20)
def test_a_request_that_is_completed_twice_breaks_the_queue(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.hold = True
    disk.submit_read(0, 512)
    disk.submit_read(0, 512)
    ring = fake.device.queues[0].ring
    assert ring is not None
    head = fake.device.queues[0].held[0].head
    fake.device.data[:512] = b"\1" * 512
    for slot in (0, 1):
        ring.put_used(slot, head, 513)
    ring.set_used_idx(2)
    with pytest.raises(QueueBroken):
        disk.poll()


@pytest.mark.fault(26)
def test_a_device_that_writes_what_it_may_only_read_changes_nothing_of_the_callers(fake: FakeDoor) -> None:
    """Without an IOMMU it can: what it got was a copy, and the next request has its own (VIRTIO 1.4, 2.7.5.1)."""
    import ctypes

    disk = opened(fake)
    fake.device.hold = True
    data = bytearray(b"d" * 1024)
    token = disk.submit_write(0, data)
    [_, *pieces] = fake.device.queues[0].held[0].readable
    for address, length in pieces:
        ctypes.memset(fake.hal.vaddr_of(PhysAddr(address)), 0xEE, length)
    fake.device.hold = False
    fake.device.release()
    disk.complete(token)
    assert data == b"d" * 1024
    disk.write(0, data)
    assert disk.read(0, 1024) == data


@pytest.mark.fault(25)
def test_descriptors_that_the_device_rewrites_change_nothing(fake: FakeDoor) -> None:
    """It cannot behind an IOMMU; without one, nothing is read back (faults, row 25)."""
    import ctypes

    disk = opened(fake)
    fake.device.hold = True
    token = disk.submit_read(0, 512)
    chain = fake.device.queues[0].held[0]
    table = fake.device.queues[0].desc
    ctypes.memset(fake.hal.vaddr_of(PhysAddr(table)), 0xFF, 16 * 64)
    fake.device.hold = False
    fake.device.release()
    assert chain.writable_bytes == 513
    assert disk.complete(token) == bytes(512)
    assert disk.requests_free == 21
    assert disk.read(8, 512) == bytes(512)


# --- Starting ---------------------------------------------------------------------------------------------------------


def set_config(fake: FakeDoor, **values: int) -> None:
    for name, value in values.items():
        field = getattr(BlkConfig, name)
        fake.device.set_config(field.offset, field.width, value)


@pytest.mark.fault(35)
@pytest.mark.parametrize("block_size", [0, 1, 3, 256, 511, 513, 768, 131072, 0xFFFF_FFFF])
def test_a_block_size_that_cannot_be_is_refused(fake: FakeDoor, block_size: int) -> None:
    opened(fake).close()
    set_config(fake, blk_size=block_size)
    with pytest.raises(DeviceError, match=f"blocks have {block_size} bytes") as caught:
        fake.reopen()
    assert exit_code_of(caught.value) == 4
    assert DeviceStatus.FAILED in DeviceStatus(fake.device.status_writes[-2]), "and then it was reset"


@pytest.mark.fault(35)
def test_a_disk_of_nothing_opens_and_refuses_every_range(fake: FakeDoor) -> None:
    disk = opened(fake, 0)
    assert (disk.capacity(), disk.num_blocks(), disk.size()) == (0, 0, 0)
    with pytest.raises(HwloopError):
        disk.read(0, 512)


@pytest.mark.fault(35, 49)
def test_the_largest_capacity_is_a_number_like_any_other(fake: FakeDoor) -> None:
    opened(fake).close()
    set_config(fake, capacity=(1 << 64) - 1)
    disk = fake.reopen()
    assert disk.size() == ((1 << 64) - 1) * 512
    with pytest.raises(HwloopError):
        disk.read((1 << 64) - 1, 512)


@pytest.mark.fault(35)
def test_limits_of_zero_are_no_limits_or_one_segment(fake: FakeDoor) -> None:
    opened(fake, size_max=512, seg_max=2).close()
    set_config(fake, size_max=0, seg_max=0)
    disk = fake.reopen()
    assert disk.max_transfer() == LARGEST_TRANSFER
    disk.write(0, bytes(MIB))


def test_limits_below_one_block_are_refused(fake: FakeDoor) -> None:
    opened(fake, size_max=512, seg_max=1).close()
    set_config(fake, size_max=100)
    with pytest.raises(Unsupported, match="1 segments of 100 bytes, less than one block of 512"):
        fake.reopen()


@pytest.mark.fault(51)
@pytest.mark.parametrize("queue_size", [1, 2])
def test_a_queue_too_small_for_a_read_is_refused_at_once(fake: FakeDoor, queue_size: int) -> None:
    with pytest.raises(Unsupported, match=f"{queue_size} descriptors"):
        fake.open(MIB, queue_size=queue_size)


@pytest.mark.fault(35)
@pytest.mark.parametrize("queue_size", [0, 32769, 65535])
def test_a_queue_size_that_cannot_be_is_refused(fake: FakeDoor, queue_size: int) -> None:
    with pytest.raises(DeviceError, match="queue 0"):
        fake.open(MIB, queue_size=queue_size)


@pytest.mark.fault(35)
def test_a_queue_size_that_is_no_power_of_two_is_rounded_down(modern_fake: FakeDoor) -> None:
    assert opened(modern_fake, queue_size=100).virtqueues[0].size == 64


def test_a_queue_size_that_is_no_power_of_two_and_cannot_be_changed_is_refused(fixed_size_fake: FakeDoor) -> None:
    with pytest.raises(DeviceError, match="queue 0 has 100 descriptors, which is no power of two"):
        fixed_size_fake.open(MIB, queue_size=100)


@pytest.mark.fault(35)
def test_a_device_of_no_queue_is_refused(fake: FakeDoor) -> None:
    opened(fake).close()
    fake.device.queues.clear()
    with pytest.raises(DeviceError, match="no queue 0"):
        fake.reopen()


def test_a_device_that_offers_every_bit_is_no_problem(fake: FakeDoor) -> None:
    opened(fake).close()
    fake.device.features = (1 << 64) - 1
    fake.device.config += bytes(BlkConfig.zoned_model.end - len(fake.device.config))
    set_config(fake, size_max=4096)
    disk = fake.reopen()
    allowed = VirtioBlk.SUPPORTED_FEATURES | disk.options.accepted
    allowed |= Feature.ANY_LAYOUT if disk.transport.requires_legacy_layout() else 0
    assert disk.negotiated & ~int(allowed) == 0
    assert disk.readonly()
    assert disk.read(0, 512) == bytes(512)


@pytest.mark.fault(5)
def test_refused_features_end_in_failed_and_an_error_that_names_them(modern_fake: FakeDoor) -> None:
    opened(modern_fake).close()
    modern_fake.device.faults.refuse_features = True
    with pytest.raises(FeaturesRefused, match="VIRTIO_BLK_F_FLUSH") as caught:
        modern_fake.reopen()
    assert caught.value.errno == errno.EOPNOTSUPP
    assert modern_fake.device.status_writes[-2:] == [0x83, 0], "FAILED once, and then it was reset"


def test_a_device_without_version_1_is_refused(modern_fake: FakeDoor) -> None:
    opened(modern_fake).close()
    modern_fake.device.features = int(BlkFeature.FLUSH)
    with pytest.raises(FeaturesRefused, match="VIRTIO_F_VERSION_1"):
        modern_fake.reopen()


def test_a_device_that_does_not_become_ready_is_refused(fake: FakeDoor) -> None:
    opened(fake).close()
    fake.device.faults.ignore_driver_ok = True
    with pytest.raises(DeviceLost, match="did not become ready"):
        fake.reopen()


@pytest.mark.fault(4)
@pytest.mark.parametrize("reads", [1, 5, 50])
def test_a_slow_reset_is_waited_for_and_nothing_else_is_touched(fake: FakeDoor, reads: int) -> None:
    opened(fake).close()
    fake.device.status = LIVE
    fake.device.faults.reset_reads = reads
    with fake.reopen() as disk:
        assert disk.read(0, 512) == bytes(512)


# --- A reset that never ends ------------------------------------------------------------------------------------------


@pytest.fixture
def short_resets(monkeypatch: pytest.MonkeyPatch) -> float:
    from hwloop.transport.base import Transport

    patient = Transport.reset
    monkeypatch.setattr(Transport, "reset", lambda self, seconds=0.1: patient(self, seconds))
    return 0.1


@pytest.mark.fault(3)
def test_a_device_that_never_resets_is_refused_after_one_deadline(fake: FakeDoor, short_resets: float) -> None:
    opened(fake).close()
    fake.device.status = LIVE
    fake.device.status_writes.clear()
    fake.device.faults.reset_reads = -1
    began = time.monotonic()
    with pytest.raises(DeadlineExpired, match="status 0"):
        fake.reopen()
    assert short_resets <= time.monotonic() - began < short_resets + SLACK
    assert fake.device.status_writes == [0], "one reset, one wait, and no FAILED in the middle of it"


@pytest.mark.fault(3)
def test_memory_is_kept_when_the_reset_at_the_end_does_not_work(fake: FakeDoor, short_resets: float) -> None:
    disk = opened(fake)
    fake.device.hold = True
    disk.submit_read(0, 512)
    shared_at = fake.device.queues[0].held[0].writable[0][0]
    fake.device.faults.reset_reads = -1
    with pytest.raises(DeadlineExpired):
        disk.close()
    disk.close()
    assert fake.hal.translate(shared_at, 512, True), "still mapped: the device may still write it"
    fake.disk = None
    fake.hal.leaked.clear()
    fake.hal = type(fake.hal)()


def test_a_timeout_whose_reset_fails_too_reports_both_and_close_does_not_wait_again(
    fake: FakeDoor, short_resets: float
) -> None:
    disk = opened(fake)
    fake.device.faults.drop = True
    token = disk.submit_read(0, 512)
    fake.device.faults.reset_reads = -1
    with pytest.raises(DeadlineExpired, match="status 0") as caught:
        disk.wait(token)
    assert isinstance(caught.value.__cause__, DeadlineExpired)
    assert "a request to complete" in str(caught.value.__cause__)
    disk.close()
    assert fake.device.status_writes == [0], "one reset, and one wait for it"
    fake.disk = None
    fake.hal = type(fake.hal)()


# --- Threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(60)
def test_two_threads_read_and_write_the_same_disk(fake: FakeDoor) -> None:
    disk = opened(fake, patient=True)
    problems: list[object] = []

    def work(number: int) -> None:
        base = number * 512
        for turn in range(100):
            data = bytes([number, turn]) * 256
            disk.write(base, data)
            if disk.read(base, 512) != data:
                problems.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_thread_that_waits_does_not_keep_others_from_their_work(fake: FakeDoor) -> None:
    disk = opened(fake, patient=True)
    fake.device.hold = True
    stuck = disk.submit_read(0, 512)
    waiter = threading.Thread(target=disk.wait, args=(stuck, 60))
    waiter.start()
    began = time.monotonic()
    for _ in range(3):
        token = disk.submit_read(8, 512)
        chain = fake.device.queues[0].held.pop()
        ring = fake.device.queues[0].ring
        assert ring is not None
        ring.complete(chain.head, fake.device.serve(chain))
        disk.wait(token)
    assert time.monotonic() - began < SLACK
    fake.device.release()
    waiter.join()


def test_a_disk_made_in_one_thread_is_used_in_another(fake: FakeDoor) -> None:
    made: list[VirtioBlk] = []
    thread = threading.Thread(target=lambda: made.append(opened(fake)))
    thread.start()
    thread.join()
    assert made[0].read(0, 512) == bytes(512)


@pytest.mark.fault(60)
def test_closing_ends_the_waits_of_other_threads(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.hold = True
    outcome: list[HwloopError] = []

    def wait() -> None:
        try:
            disk.wait(token, 60)
        except HwloopError as error:
            outcome.append(error)

    token = disk.submit_read(0, 512)
    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.02)
    disk.close()
    waiter.join(SLACK)
    assert not waiter.is_alive()
    assert outcome[0].errno == errno.EBADF


def test_a_completion_that_another_thread_took_ends_a_wait_at_once(fake: FakeDoor) -> None:
    """It is in the moment between looking and waiting that the other thread takes it."""
    disk = opened(fake)
    fake.device.hold = True
    token = disk.submit_read(0, 512)
    wait = disk._wait_or_give_up

    def other_thread_first(*arguments: Any) -> None:
        fake.device.release()
        assert disk.poll() == [token]
        disk._wait_for_completion = lambda seconds: pytest.fail("nothing would have come")  # type: ignore[method-assign]
        wait(*arguments)

    disk._wait_or_give_up = other_thread_first  # type: ignore[method-assign]
    assert disk.wait(token) == bytes(512)


# --- Children ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault(59)
def test_a_child_of_the_process_has_no_disk_and_ends_nothing(fake: FakeDoor) -> None:
    disk = opened(fake)
    fake.device.hold = True
    token = disk.submit_write(0, b"p" * 512)
    child = os.fork()
    if not child:
        os._exit(_as_a_child(disk))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    fake.device.hold = False
    fake.device.release()
    disk.wait(token)
    assert disk.read(0, 512) == b"p" * 512


def _as_a_child(disk: VirtioBlk) -> int:
    """How many of these worked or failed in another way than by saying whose disk it is."""
    wrong = 0
    for call in (lambda: disk.read(0, 512), lambda: disk.submit_write(0, bytes(512)), disk.flush):
        try:
            call()
            wrong += 1
        except DeviceClosed as error:
            wrong += "belongs to the process that opened it" not in str(error)
    try:
        disk.queues[0].poll()
        wrong += 1
    except HwloopError:
        pass
    disk.close()
    return wrong
