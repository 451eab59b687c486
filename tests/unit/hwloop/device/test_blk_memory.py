"""Memory that a caller shares with a disk: how long it lasts, and that none of it is lost."""

from __future__ import annotations

from contextlib import suppress

import pytest

from cython_ring import RingUsageError
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import DeviceClosed, DeviceLost, InvalidParam
from hwloop.hal.fake import FakeHal
from hwloop.queue_options import QueueOptions
from hwloop.spec import BlkFeature
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, RINGS


def disk_of(packed: bool = False) -> tuple[VirtioBlk, FakeBlk, FakeHal]:
    hal = FakeHal()
    device = FakeBlk(hal, features=MODERN | RINGS | BlkFeature.MQ, queues=2)
    return VirtioBlk(FakeTransport(device), hal, options=QueueOptions({"packed": packed}, queues=2)), device, hal


@pytest.mark.parametrize("packed", [False, True])
def test_requests_of_every_queue_read_and_write_it_in_place(packed: bool) -> None:
    disk, device, hal = disk_of(packed)
    with disk:
        buffer = disk.alloc(5000)
        assert (len(buffer), bytes(buffer)) == (5000, bytes(5000))
        memoryview(buffer)[:512] = b"w" * 512
        disk.queues[0].write_from(4, buffer, 0, 512)
        assert device.data[2048:2560] == b"w" * 512
        disk.queues[1].read_into(4, buffer, 1024, 512)
        assert bytes(buffer)[1024:1536] == b"w" * 512
    assert buffer.closed
    assert hal.leaks() == []


def test_what_is_closed_goes_back_zeroed() -> None:
    disk, _, hal = disk_of()
    with disk:
        before = hal.leaks()
        for _ in range(3):
            with disk.alloc(8192) as buffer:
                assert bytes(buffer) == bytes(8192)
                memoryview(buffer)[:] = b"x" * 8192
        assert hal.leaks() == before


def test_the_end_of_a_device_that_is_gone_does_so_too() -> None:
    disk, device, hal = disk_of()
    device.hold = True
    buffer = disk.alloc(4096)
    disk.queues[1].submit_read(0, buffer, 7, 0, 4096)
    device.faults.gone = True
    with suppress(DeviceLost):
        disk.close()
    assert buffer.closed
    assert not hal.quarantined
    assert hal.leaks() == []


def test_the_end_of_the_disk_ends_requests_in_flight_with_their_memory() -> None:
    disk, device, hal = disk_of()
    device.hold = True
    buffer = disk.alloc(4096)
    disk.queues[0].submit_read(0, buffer, 7, 0, 4096)
    with pytest.raises(RingUsageError, match="in flight"):
        buffer.close()
    disk.close()
    assert buffer.closed
    assert hal.leaks() == []


def test_memory_that_somebody_looks_at_stays_for_ever() -> None:
    disk, _, hal = disk_of()
    buffer = disk.alloc(4096)
    view = memoryview(buffer)
    view[:4] = b"kept"
    disk.close()
    assert bytes(view[:4]) == b"kept"
    assert (buffer.device_address, 4096) in hal.leaks()


def test_sizes_and_disks_that_cannot_be_are_refused() -> None:
    disk, _, hal = disk_of()
    with disk, pytest.raises(InvalidParam, match="cannot allocate 0 bytes; give one or more"):
        disk.alloc(0)
    with pytest.raises(DeviceClosed):
        disk.alloc(512)
    assert hal.leaks() == []


# --- The disk's own requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_calls_of_the_disk_read_and_write_it_in_place(packed: bool) -> None:
    disk, device, hal = disk_of(packed)
    hal.share = hal.unshare = None  # type: ignore[method-assign, assignment]
    with disk, disk.alloc(4096) as buffer, memoryview(buffer) as view:
        view[512:1024] = b"w" * 512
        disk.write(4, view[512:1024])
        assert device.data[2048:2560] == b"w" * 512
        token = disk.submit_read_into(4, view[1024:1536])
        assert disk.wait(token) == b""
        disk.read_into(4, view[:512])
        assert bytes(view[:512]) == bytes(view[1024:1536]) == b"w" * 512
    assert hal.leaks() == []


def test_a_request_in_flight_keeps_it_from_being_closed_and_one_that_ended_does_not() -> None:
    disk, device, hal = disk_of()
    with disk:
        device.hold = True
        buffer = disk.alloc(4096)
        token = disk.submit_read_into(0, memoryview(buffer)[:512])
        with pytest.raises(RingUsageError):
            buffer.close()
        device.release()
        disk.wait(token)
        buffer.close()
        token = disk.submit_read_into(0, memoryview(disk.alloc(512)))
        device.hold = True
    assert hal.leaks() == []


def test_memory_of_another_disk_is_copied() -> None:
    first, _, _ = disk_of()
    second, device, _ = disk_of()
    device.data[:512] = b"x" * 512
    with first, second, first.alloc(512) as buffer:
        second.read_into(0, buffer)
        assert bytes(buffer) == b"x" * 512


def test_what_is_read_into_other_memory_is_there_once_it_has_completed() -> None:
    disk, device, hal = disk_of()
    device.data[:512] = b"x" * 512
    with disk:
        into = bytearray(512)
        assert disk.wait(disk.submit_read_into(0, into)) == b""
        assert into == b"x" * 512
        with pytest.raises(InvalidParam, match="cannot be written"):
            disk.submit_read_into(0, bytes(512))
    assert hal.leaks() == []


def test_memory_that_a_transfer_leaves_with_a_request_comes_back_with_the_next_transfer() -> None:
    disk, device, hal = disk_of()
    with disk:
        before = hal.leaks()
        device.hold = True
        with disk.transfer_memory(4096) as memory:
            token = disk.submit_read_into(0, memoryview(memory))
        assert hal.leaks() != before
        device.release()
        disk.wait(token)
        with disk.transfer_memory(4096):
            pass
        assert hal.leaks() == before
    assert hal.leaks() == []
