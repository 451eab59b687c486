"""What every block device must do, through whatever door it is reached. Nothing here knows the device behind it."""

from __future__ import annotations

import errno
import random
from functools import cache

import pytest

import hwloop
from hwloop.deadline import Deadline
from hwloop.device.blk import LARGEST_TRANSFER
from hwloop.device.block import BlockDevice
from hwloop.errors import DeviceClosed, InvalidParam, QueueFull, ReadOnlyDisk, WrongToken
from tests.contract.door import Door

MIB = 1 << 20


@cache
def pattern(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


# --- The example of seed 000 ------------------------------------------------------------------------------------------


def test_the_example_of_seed_000_works_as_printed(door: Door) -> None:
    disk_size, block_size = 4 * MIB, 0x200
    disk = door.open(disk_size)

    assert disk.device_type() == hwloop.DeviceType.Block
    assert disk.device_name() == door.device_name
    assert disk.block_size() == block_size
    assert disk.num_blocks() == disk_size // block_size

    block_id = 1
    buf = bytearray(block_size)
    disk.read_block(block_id, buf)

    buf[0:4] = b"0123"
    disk.write_block(block_id, buf)
    disk.flush()

    buf = bytearray(block_size)
    disk.read_block(block_id, buf)
    assert buf[0:4] == b"0123"


def test_the_driver_has_the_interface_of_seed_000(door: Door) -> None:
    door.needs("virtio driver")
    disk = door.open(MIB)
    assert isinstance(disk, hwloop.VirtIoBlkDev)
    assert isinstance(disk, hwloop.BlockDriverOps)
    assert isinstance(disk, hwloop.BaseDriverOps)


# --- Bytes ------------------------------------------------------------------------------------------------------------


def test_a_new_disk_reads_zeros(door: Door) -> None:
    assert door.open(MIB).read(0, 4096) == bytes(4096)


def test_what_is_written_is_read_back_and_is_on_the_disk(door: Door) -> None:
    disk = door.open(MIB)
    disk.write(3, pattern(1024))
    assert disk.read(3, 1024) == pattern(1024)
    disk.flush()
    assert door.backing(3 * 512, 1024) == pattern(1024)
    assert door.backing(0, 3 * 512) == bytes(3 * 512)
    assert door.backing(5 * 512, 512) == bytes(512)


def test_the_first_and_the_last_sector_are_reachable(door: Door) -> None:
    disk = door.open(MIB)
    last = disk.capacity() - 1
    disk.write(0, b"F" * 512)
    disk.write(last, b"L" * 512)
    assert disk.read(0, 512) == b"F" * 512
    assert disk.read(last, 512) == b"L" * 512


def test_the_whole_disk_moves_in_one_call_in_each_direction(door: Door) -> None:
    disk = door.open(3 * MIB)
    assert disk.size() > LARGEST_TRANSFER, "so that the call is split into requests"
    disk.write(0, pattern(3 * MIB))
    assert disk.read(0, 3 * MIB) == pattern(3 * MIB)


def test_any_buffer_can_be_written_and_read_into(door: Door) -> None:
    import array

    disk = door.open(MIB)
    words = array.array("I", range(256))
    disk.write(0, words)
    into = array.array("I", bytes(1024))
    disk.read_into(0, into)
    assert into == words
    disk.write(8, memoryview(bytes(range(256)) * 4)[512:])
    assert disk.read(8, 512) == bytes(range(256)) * 2


def test_a_buffer_that_cannot_be_written_is_no_place_to_read_into(door: Door) -> None:
    disk = door.open(MIB)
    with pytest.raises(InvalidParam):
        disk.read_into(0, bytes(512))
    assert disk.read(0, 512) == bytes(512)


@pytest.mark.parametrize(("block_size", "requests"), [(512, 10_000), (4096, 1000)])
def test_thousands_of_random_requests_agree_with_a_model(door: Door, block_size: int, requests: int) -> None:
    rng = random.Random(block_size)
    size = 2 * MIB
    disk = door.open(size, block_size=block_size)
    model = bytearray(size)
    for _ in range(requests):
        blocks = rng.randint(1, 8)
        first = rng.randrange(size // block_size - blocks + 1)
        start, length = first * block_size, blocks * block_size
        if rng.random() < 0.5:
            data = rng.randbytes(length)
            disk.write(start // 512, data)
            model[start : start + length] = data
        else:
            assert disk.read(start // 512, length) == model[start : start + length]
    disk.flush()
    assert door.backing(0, size) == model


# --- What it says of itself -------------------------------------------------------------------------------------------


def test_the_size_is_told_in_sectors_blocks_and_bytes(door: Door) -> None:
    disk = door.open(MIB)
    assert disk.capacity() == 2048
    assert disk.num_blocks() == 2048
    assert disk.size() == MIB
    assert not disk.readonly()


def test_large_blocks_leave_sectors_at_512_bytes(door: Door) -> None:
    disk = door.open(MIB, block_size=4096)
    assert (disk.block_size(), disk.num_blocks(), disk.capacity()) == (4096, 256, 2048)
    disk.write_block(2, b"b" * 4096)
    assert disk.read(16, 4096) == b"b" * 4096


def test_the_serial_is_what_the_device_was_given(door: Door) -> None:
    door.needs("serial")
    assert door.open(MIB).device_id() == "HWLOOP0"


@pytest.mark.parametrize("serial", [b"", b"01234567890123456789"])
def test_a_serial_may_be_empty_or_fill_its_20_bytes(door: Door, serial: bytes) -> None:
    assert door.open(MIB, serial=serial).device_id() == serial.decode()


def test_a_serial_that_is_no_text_is_shown_and_not_fatal(door: Door) -> None:
    assert door.open(MIB, serial=b"\xff\x01A").device_id() == "\\xff\x01A"


# --- Bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    ("sector", "length"),
    [
        (0, 0),
        (0, -512),
        (0, 1),
        (0, 513),
        (-1, 512),
        (-(1 << 64), 512),
        (2048, 512),
        (2047, 1024),
        (1 << 32, 512),
        ((1 << 64) - 1, 512),
        (1 << 64, 512),
        (1 << 200, 512),
        (0, 1 << 62),
        (1 << 55, 1 << 20),
    ],
)
def test_a_range_that_is_not_on_the_disk_is_refused_before_anything_is_sent(
    door: Door, sector: int, length: int
) -> None:
    disk = door.open(MIB)
    with pytest.raises(InvalidParam) as caught:
        disk.read(sector, length)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(InvalidParam):
        disk.submit_read(sector, length)
    if 0 < length <= MIB:
        with pytest.raises(InvalidParam):
            disk.write(sector, bytes(length))
    assert disk.poll() == []


@pytest.mark.fault(49)
def test_a_write_behind_the_end_is_enospc_and_changes_nothing(door: Door) -> None:
    disk = door.open(MIB)
    with pytest.raises(InvalidParam) as caught:
        disk.write(2047, b"x" * 1024)
    assert caught.value.errno == errno.ENOSPC
    assert disk.read(2047, 512) == bytes(512)


def test_half_a_block_of_4096_bytes_is_refused(door: Door) -> None:
    disk = door.open(MIB, block_size=4096)
    for sector, length in ((1, 4096), (0, 512), (8, 2048)):
        with pytest.raises(InvalidParam):
            disk.read(sector, length)


# --- Read-only, and caches --------------------------------------------------------------------------------------------


@pytest.mark.fault(48)
def test_a_read_only_disk_refuses_writes_itself(door: Door) -> None:
    disk = door.open(MIB, read_only=True)
    assert disk.readonly()
    for attempt in (disk.write, disk.submit_write, disk.write_block):
        with pytest.raises(ReadOnlyDisk) as caught:
            attempt(0, bytes(512))
        assert caught.value.errno == errno.EROFS
    assert disk.read(0, 512) == bytes(512)


def test_a_disk_without_a_cache_has_nothing_to_flush(door: Door) -> None:
    disk = door.open(MIB, flush=False)
    disk.write(0, b"x" * 512)
    disk.flush()
    with pytest.raises(hwloop.DriverError) as caught:
        disk.submit_flush()
    assert caught.value.errno == errno.EOPNOTSUPP


# --- Many at once -----------------------------------------------------------------------------------------------------


def test_many_requests_are_in_flight_and_each_gets_its_own_data(door: Door) -> None:
    disk = door.open(MIB)
    writes = [disk.submit_write(8 * i, bytes([i]) * 4096) for i in range(16)]
    assert [disk.wait(token) for token in writes] == [b""] * 16
    reads = {disk.submit_read(8 * i, 4096): i for i in range(16)}
    for token, i in reversed(reads.items()):
        assert disk.wait(token) == bytes([i]) * 4096


def test_poll_tells_of_everything_that_completed_and_complete_takes_it(door: Door) -> None:
    door.needs("flush")
    disk = door.open(MIB)
    tokens = {disk.submit_read(0, 512), disk.submit_flush(), disk.submit_write(8, bytes(512))}
    taken = set()
    deadline = Deadline(10)
    while taken != tokens and not deadline.expired():
        for token in disk.poll():
            disk.complete(token)
            taken.add(token)
    assert taken == tokens
    assert disk.peek_used() is None


def fill(disk: BlockDevice, most: int) -> list[int]:
    """Submit until the queue is full; a fast device never lets it be, since what completed is a free place again."""
    tokens: list[int] = []
    for _ in range(most):
        try:
            tokens.append(disk.submit_read(0, 512))
        except QueueFull:
            break
    return tokens


@pytest.mark.fault(51)
def test_a_queue_takes_all_that_fits_and_has_room_again_after_a_completion(door: Door) -> None:
    disk = door.open(MIB)
    free = disk.requests_free
    tokens = fill(disk, 3 * free)
    assert len(tokens) >= free
    for token in tokens:
        assert disk.wait(token) == bytes(512)
    assert disk.read(0, 512) == bytes(512)


def test_a_call_waits_for_a_place_when_results_that_nobody_took_fill_the_queue(door: Door) -> None:
    disk = door.open(MIB)
    tokens = [disk.submit_read(0, 512) for _ in range(disk.requests_free)]
    disk.write(8, b"w" * 512)
    assert disk.read(8, 512) == b"w" * 512
    assert sorted(disk.poll()) == tokens
    for token in tokens:
        assert disk.complete(token) == bytes(512)


def test_a_token_is_good_once(door: Door) -> None:
    disk = door.open(MIB)
    token = disk.submit_read(0, 512)
    disk.wait(token)
    for use in (disk.complete, disk.wait):
        with pytest.raises(WrongToken):
            use(token)
    with pytest.raises(WrongToken):
        disk.complete(token + 1000)


def test_requests_larger_than_max_transfer_are_refused_and_name_the_limit(door: Door) -> None:
    disk = door.open(4 * MIB)
    with pytest.raises(InvalidParam, match=str(disk.max_transfer())):
        disk.submit_read(0, disk.max_transfer() + 512)
    assert disk.wait(disk.submit_read(0, disk.max_transfer())) == bytes(disk.max_transfer())


@pytest.mark.parametrize(
    ("size_max", "seg_max", "most"),
    [(4096, 4, 16384), (4096, 126, 62 * 4096), (512, 1, 512), (1000, 2, 1536), (1 << 20, 1, MIB), (65536, 0, 65536)],
)
def test_transfers_are_split_to_the_limits_of_the_device(door: Door, size_max: int, seg_max: int, most: int) -> None:
    disk = door.open(MIB, size_max=size_max, seg_max=seg_max)
    assert disk.max_transfer() == most
    disk.write(0, pattern(100 * 512))
    assert disk.read(0, 100 * 512) == pattern(100 * 512)
    assert disk.wait(disk.submit_read(0, most)) == door.backing(0, most)


@pytest.mark.fault(51)
@pytest.mark.parametrize("queue_size", [4, 8, 256, 1024])
def test_a_queue_of_any_size_carries_any_transfer(door: Door, queue_size: int) -> None:
    disk = door.open(2 * MIB, queue_size=queue_size)
    disk.write(0, pattern(2 * MIB))
    tokens = [disk.submit_read(0, 512) for _ in range(disk.requests_free)]
    assert tokens
    assert disk.read(0, 2 * MIB) == pattern(2 * MIB)
    for token in tokens:
        assert disk.wait(token) == pattern(2 * MIB)[:512]


# --- Its end ----------------------------------------------------------------------------------------------------------


def test_a_closed_disk_does_nothing_any_more_and_may_be_closed_again(door: Door) -> None:
    door.needs("end in flight")
    disk = door.open(MIB)
    first, second = disk.submit_read(0, 512), disk.submit_read(0, 512)
    disk.close()
    disk.close()
    for use in (
        lambda: disk.read(0, 512),
        lambda: disk.write(0, bytes(512)),
        disk.flush,
        disk.device_id,
        lambda: disk.submit_read(0, 512),
        lambda: disk.wait(first),
        lambda: disk.complete(second),
    ):
        with pytest.raises(DeviceClosed) as caught:
            use()
        assert caught.value.errno == errno.EBADF
    assert disk.capacity() == 2048


def test_a_disk_is_opened_again_after_it_was_closed(door: Door) -> None:
    with door.open(MIB) as disk:
        disk.write(0, pattern(512))
        disk.flush()
    for _ in range(3):
        with door.reopen() as disk:
            assert disk.read(0, 512) == pattern(512)


@pytest.mark.fault(60)
def test_closing_with_requests_in_flight_is_allowed_and_the_disk_is_whole_afterwards(door: Door) -> None:
    door.needs("end in flight")
    disk = door.open(MIB)
    for i in range(8):
        disk.submit_read(8 * i, 4096)
    disk.close()
    with door.reopen() as again:
        again.write(0, pattern(4096))
        assert again.read(0, 4096) == pattern(4096)
