from __future__ import annotations

import ctypes
import errno
import sys
from array import array
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cython_ring import DriverViolation, PackedLoopback
from cython_ring.histogram import Histogram
from hwloop.device.blk_queue import Batch
from hwloop.errors import (
    AlreadyUsed,
    DeadlineExpired,
    DeviceClosed,
    InvalidParam,
    IoError,
    QueueBroken,
    QueueFull,
    ReadOnlyDisk,
)
from tests.unit.hwloop.device.blk_queue_pair import CAPACITY, MAKES, Pair, buffer, every


def header(chain: Any) -> tuple[int, int]:
    data = ctypes.string_at(*chain.readable[0])
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little")


# --- What the device gets ---


@every
def test_a_read_and_a_write_reach_the_device_with_their_memory(
    make: Any, indirect: bool, in_order: bool, event_idx: bool
) -> None:
    pair = Pair(make, indirect=indirect, ring={"in_order": in_order, "event_idx": event_idx})
    memory = buffer()
    pair.queue.submit_read(8, memory, 5, 512, 4096)
    pair.queue.submit_write(16, memory, 6)
    read = pair.answer()
    assert header(read) == (0, 8)
    assert read.writable == [(memory.device_address + 512, 4096), (read.writable[-1][0], 1)]
    write = pair.answer()
    assert header(write) == (1, 16)
    assert write.readable[1:] == [(memory.device_address, 65536)]
    assert pair.queue.poll() == (5, 6)
    assert pair.queue.poll() == ()
    assert pair.loop.guards_intact()


@every
def test_a_synchronous_read_returns_when_the_device_is_done(
    make: Any, indirect: bool, in_order: bool, event_idx: bool
) -> None:
    pair = Pair(make, indirect=indirect, ring={"in_order": in_order, "event_idx": event_idx})
    memory = buffer()
    with pair.serving(200):
        for sector in range(100):
            pair.queue.read_into(sector, memory, 0, 512)
            pair.queue.write_from(sector, memory, 512, 512)
    assert pair.queue.outstanding == 0
    with pair.serving(1, 1), pytest.raises(IoError, match="IN at sector 9 on queue 0: the device reports"):
        pair.queue.read_into(9, memory, 0, 512)


@pytest.mark.parametrize("make", MAKES)
def test_a_synchronous_read_keeps_what_else_completes(make: Any) -> None:
    pair = Pair(make)
    memory = buffer()
    for tag in range(3):
        pair.queue.submit_read(0, memory, tag)
    pair.serve(3, 1)
    with pair.serving(1):
        pair.queue.read_into(0, memory)
    completions = pair.queue.reap()
    assert list(completions) == [(0, 1), (1, 1), (2, 1)]
    assert [error.tag for error in completions.errors()] == [0, 1, 2]


@pytest.mark.parametrize("make", MAKES)
def test_long_transfers_are_split_by_size_max(make: Any) -> None:
    pair = Pair(make, size_max=4096, seg_max=3)
    memory = buffer()
    assert (pair.queue.segments, pair.queue.max_transfer) == (3, 12288)
    pair.queue.submit_read(0, memory, 1, 0, 10240)
    chain = pair.answer()
    assert [length for _, length in chain.writable] == [4096, 4096, 2048, 1]
    assert pair.queue.poll() == (1,)
    with pytest.raises(InvalidParam, match="more than one request carries; split at 12288"):
        pair.queue.submit_read(0, memory, 1, 0, 12800)
    with pair.serving(6):
        pair.queue.read_into(0, memory)
    for tag in range(40):
        pair.queue.submit_read(0, memory, tag, 0, 512)
        assert len(pair.answer().writable) == 2
        assert pair.queue.poll() == (tag,)
    assert pair.loop.guards_intact()


@every
def test_vectors_and_single_requests_take_turns_in_the_same_slots(
    make: Any, indirect: bool, in_order: bool, event_idx: bool
) -> None:
    for parts in (0, 8):
        pair = Pair(make, indirect=indirect, ring={"in_order": in_order, "event_idx": event_idx, "table_parts": parts})
        first, second = buffer(), buffer()
        for turn in range(60):
            if turn % 3 == 0:
                pair.queue.readv(turn, [(first, 512, 512), (second, 0, 1024), (first, 0, 512)], turn)
                chain = pair.fetch()
                assert chain.writable[:-1] == [
                    (first.device_address + 512, 512),
                    (second.device_address, 1024),
                    (first.device_address, 512),
                ]
            elif turn % 3 == 1:
                pair.queue.writev(turn, [first, second], turn)
                chain = pair.fetch()
                assert chain.readable[1:] == [(first.device_address, 65536), (second.device_address, 65536)]
            else:
                pair.queue.submit_read(turn, first, turn, 0, 512)
                chain = pair.fetch()
                assert chain.writable[:-1] == [(first.device_address, 512)]
            assert header(chain)[1] == turn
            pair.answer(chain=chain)
            assert pair.queue.poll() == (turn,)
        assert pair.queue.ring.free == 16
        assert pair.loop.guards_intact()


# --- Batches ---


@every
def test_a_batch_is_sent_with_one_notification(make: Any, indirect: bool, in_order: bool, event_idx: bool) -> None:
    pair = Pair(make, 64, indirect=indirect, ring={"in_order": in_order, "event_idx": event_idx})
    memory = buffer()
    batch = Batch(32)
    batch.reads(array("Q", range(0, 160, 8)), memory, 512, first_tag=100)
    batch.write(7, memory, 512, 512, tag=200)
    assert len(batch) == 21
    for turn in range(1, 6):
        assert pair.queue.submit(batch) == 21
        assert pair.rung == pair.queue.notifications == turn
        pair.serve(21)
        assert pair.loop.device.fetch() is None  # which asks to be notified of the next one
        completions = pair.queue.reap(21)
        assert completions.tags == (*range(100, 120), 200)
        assert completions.failed == 0
        assert not any(status for _, status in completions)
    words = memoryview(completions).cast("Q")
    assert list(words[0:4:2]) == [100, 101]


@pytest.mark.parametrize("make", MAKES)
def test_what_does_not_fit_is_sent_later(make: Any) -> None:
    pair = Pair(make, 8)
    memory = buffer()
    batch = Batch(20)
    batch.reads(array("Q", range(20)), memory, 512)
    sent, done = 0, []
    while len(done) < 20:
        more = pair.queue.submit(batch, sent)
        pair.serve(more)
        sent += more
        done += pair.queue.reap(max=3).tags
    assert done == list(range(20))
    with pytest.raises(InvalidParam, match="request 21 of a batch of 20"):
        pair.queue.submit(batch, 21)


@pytest.mark.parametrize(
    ("sector", "length", "says"),
    [
        (CAPACITY, 512, "end behind the disk"),
        (CAPACITY - 1, 1024, "end behind the disk"),
        (2**64 - 1, 512, "end behind the disk"),
        (2**64 - 1, 1024, "end behind the disk"),
        (0, 0, "not one or more blocks"),
        (0, 513, "not one or more blocks"),
    ],
)
def test_ranges_that_cannot_be_are_refused_everywhere(sector: int, length: int, says: str) -> None:
    pair = Pair()
    memory = buffer()
    for call in (pair.queue.read_into, pair.queue.write_from):
        with pytest.raises(InvalidParam, match=says):
            call(sector, memory, 0, length)
    for submit in (pair.queue.submit_read, pair.queue.submit_write):
        with pytest.raises(InvalidParam, match=says):
            submit(sector, memory, 1, 0, length)
    for position in (0, 3, 15):
        batch = Batch(16)
        for i in range(16):
            batch.read(sector if i == position else 0, memory, 0, length if i == position else 512)
        with pytest.raises(InvalidParam, match=f"request {position} of the batch: .*{says}"):
            pair.queue.submit(batch)
    assert pair.queue.outstanding == 0
    assert pair.rung == 0


def test_blocks_are_larger_than_sectors_where_the_disk_says_so() -> None:
    pair = Pair(block_size=4096)
    memory = buffer()
    with pytest.raises(InvalidParam, match="sector 4 does not begin a block of 4096"):
        pair.queue.submit_read(4, memory, 1, 0, 4096)
    with pytest.raises(InvalidParam, match="512 bytes is not one or more blocks of 4096"):
        pair.queue.submit_read(8, memory, 1, 0, 512)
    pair.queue.submit_read(CAPACITY - 8, memory, 1, 0, 4096)


def test_the_capacity_may_change() -> None:
    pair = Pair()
    memory = buffer()
    batch = Batch(1)
    batch.read(1000, memory, 0, 512)
    assert pair.queue.submit(batch) == 1
    pair.queue.set_capacity(1000)
    with pytest.raises(InvalidParam, match="which has 1000 sectors"):
        pair.queue.submit(batch)
    pair.queue.set_capacity(1001)
    assert pair.queue.submit(batch) == 1


def test_a_read_only_disk_takes_no_writes() -> None:
    pair = Pair(read_only=True)
    memory = buffer()
    batch = Batch(2)
    batch.write(0, memory)
    for call in (
        lambda: pair.queue.write_from(0, memory),
        lambda: pair.queue.submit_write(0, memory, 1),
        lambda: pair.queue.writev(0, [memory], 1),
        lambda: pair.queue.submit(batch),
    ):
        with pytest.raises(ReadOnlyDisk):
            call()
    batch.clear()
    batch.read(0, memory)
    assert pair.queue.submit(batch) == 1


def test_memory_is_live_in_range_and_for_this_direction() -> None:
    pair = Pair()
    memory, only_read = buffer(4096), buffer(4096, writable=False)
    batch = Batch(4)
    for offset, length, says in (
        (0, 8192, "end behind"),
        (4096, 512, "end behind"),
        (5000, 0, "offset 5000"),
        (-1, 1, "-1"),
    ):
        with pytest.raises(InvalidParam, match=says):
            pair.queue.submit_read(0, memory, 1, offset, length)
        with pytest.raises(InvalidParam, match=says):
            batch.read(0, memory, offset, length)
    with pytest.raises(InvalidParam, match="cannot write this buffer"):
        pair.queue.read_into(0, only_read)
    with pytest.raises(InvalidParam, match="end behind a buffer"):
        batch.reads(array("Q", [0, 1]), memory, 512, stride=2**63)
    pair.queue.submit_write(0, only_read, 1)
    assert len(batch) == 0
    batch.read(0, memory)
    memory.close()
    with pytest.raises(InvalidParam, match="closed"):
        pair.queue.submit(batch)
    with pytest.raises(InvalidParam, match="closed"):
        pair.queue.read_into(0, memory)


def test_a_buffer_with_requests_in_flight_cannot_be_closed() -> None:
    pair = Pair()
    memory, other = buffer(), buffer()
    pair.queue.submit_read(0, memory, 1)
    pair.queue.submit_read(0, other, 2)
    pair.answer()
    pair.queue.poll()
    memory.close()
    with pytest.raises(OSError, match="in flight"):
        other.close()
    pair.answer()
    pair.queue.poll()
    other.close()
    assert other.closed


# --- What comes back ---


@every
def test_each_status_has_its_error(make: Any, indirect: bool, in_order: bool, event_idx: bool) -> None:
    pair = Pair(make, indirect=indirect, ring={"in_order": in_order, "event_idx": event_idx}, index=3)
    memory = buffer()
    for status, says, code in (
        (1, "reports an I/O error", errno.EIO),
        (2, "does not support", errno.EOPNOTSUPP),
        (4, "not at the write pointer of its zone", errno.EIO),
        (6, "too many zones are active", errno.EOVERFLOW),
        (None, "did not write the status", errno.EIO),
        (77, "undefined status 0x4d", errno.EIO),
    ):
        pair.queue.submit_read(40, memory, 9)
        pair.answer(status)
        with pytest.raises(IoError, match=f"IN at sector 40 on queue 3: .*{says}") as caught:
            pair.queue.poll()
        assert caught.value.errno == code
        assert (caught.value.sector, caught.value.queue, caught.value.tag) == (40, 3, 9)
    assert pair.queue.poll() == ()


@pytest.mark.parametrize("make", MAKES)
def test_a_success_that_wrote_too_little_is_an_error_unless_the_device_is_legacy(make: Any) -> None:
    for legacy in (False, True):
        pair = Pair(make, legacy=legacy)
        memory = buffer()
        pair.queue.submit_read(0, memory, 1, 0, 512)
        pair.queue.submit_write(0, memory, 2, 0, 512)
        pair.answer(written=512)
        pair.answer(written=0)
        completions = pair.queue.reap(2)
        assert list(completions) == ([(1, 0), (2, 0)] if legacy else [(1, 256), (2, 256)])
        if not legacy:
            assert "wrote 512 of 513 bytes" in str(completions.errors()[0])
            assert "wrote 0 of 1 bytes" in str(completions.errors()[1])


def test_poll_tells_of_what_came_before_a_failure_first() -> None:
    pair = Pair()
    memory = buffer()
    for tag in range(5):
        pair.queue.submit_read(tag, memory, tag)
    for status in (0, 0, 1, 0, 2):
        pair.answer(status)
    assert pair.queue.poll() == (0, 1)
    with pytest.raises(IoError, match="sector 2"):
        pair.queue.poll()
    assert pair.queue.poll() == (3,)
    with pytest.raises(IoError, match="sector 4"):
        pair.queue.poll()
    assert pair.queue.poll() == ()


def test_reap_waits_for_so_many_and_no_longer_than_its_deadline() -> None:
    pair = Pair()
    memory = buffer()
    assert len(pair.queue.reap(5)) == 0
    for tag in range(4):
        pair.queue.submit_read(tag, memory, tag)
    pair.answer()
    with pytest.raises(DeadlineExpired, match="3 completions of queue 0"):
        pair.queue.reap(3, deadline=0.01)
    assert pair.queue.reap().tags == (0,)
    with pair.serving(3):
        assert len(pair.queue.reap(3, deadline=20)) == 3


@pytest.mark.parametrize("make", MAKES)
def test_a_call_that_is_over_time_is_dropped_when_it_completes_after_all(make: Any) -> None:
    pair = Pair(make, request_seconds=0.01)
    memory = buffer()
    with pytest.raises(DeadlineExpired, match="a request at sector 3 of queue 0"):
        pair.queue.read_into(3, memory)
    assert pair.rung == 2
    with pytest.raises(OSError, match="in flight"):
        memory.close()
    pair.queue.submit_read(0, memory, 7)
    pair.answer()
    pair.queue.request_seconds = 30.0
    with pair.serving(2):
        pair.queue.read_into(0, memory)
    assert pair.queue.poll() == (7,)


def test_a_full_queue_says_so() -> None:
    pair = Pair(size=4)
    memory = buffer()
    for tag in range(4):
        pair.queue.submit_read(0, memory, tag)
    for call in (lambda: pair.queue.submit_read(0, memory, 9), lambda: pair.queue.read_into(0, memory)):
        with pytest.raises(QueueFull, match="4 requests in flight"):
            call()
    pair.serve(4)
    pair.queue.poll()
    pair.queue.submit_read(0, memory, 9)


# --- A device that lies, and a caller that does ---


@pytest.mark.parametrize("make", MAKES)
def test_a_broken_ring_is_a_typed_error_until_the_queue_is_reset(make: Any) -> None:
    pair = Pair(make)
    memory = buffer()
    pair.queue.submit_read(0, memory, 11)
    if make is PackedLoopback:
        pair.loop.device.put_used(0, 9, 1, 0x8080)
    else:
        pair.loop.device.put_used(0, 9, 1)
        pair.loop.device.set_used_idx(1)
    with pytest.raises(QueueBroken, match=r"queue 0: .*not outstanding"):
        pair.queue.reap()
    batch = Batch(1)
    batch.read(0, memory)
    for call in (lambda: pair.queue.submit(batch), lambda: pair.queue.read_into(0, memory), pair.queue.poll):
        with pytest.raises(QueueBroken):
            call()
    assert pair.queue.reset() == [11]
    pair.loop.renew_device()
    with pair.serving(1):
        pair.queue.read_into(0, memory)
    pair.loop.driver.close()
    with pytest.raises(DeviceClosed, match="queue 0 is closed"):
        pair.queue.poll()
    memory.close()


@pytest.mark.parametrize("make", MAKES)
def test_a_ring_that_breaks_during_a_call_ends_it(make: Any) -> None:
    pair = Pair(make)

    def lie(_data: int) -> None:
        if make is PackedLoopback:
            pair.loop.device.put_used(0, 5, 1, 0x8080)
        else:
            pair.loop.device.put_used(0, 5, 1)
            pair.loop.device.set_used_idx(1)

    pair.on_ring = lie
    with pytest.raises(QueueBroken, match="not outstanding"):
        pair.queue.read_into(0, buffer())


def test_two_threads_in_one_queue_are_told() -> None:
    pair = Pair()
    memory = buffer()
    inside, done = Event(), Event()
    pair.queue.submit_read(0, memory, 1)

    def wait(_seconds: float, _ring: object) -> None:
        inside.set()
        done.wait(20)

    pair.queue.engine.waiter = wait
    thread = Thread(target=pair.queue.reap, args=(1,), kwargs={"deadline": 20})
    thread.start()
    assert inside.wait(20)
    batch = Batch(1)
    batch.read(0, memory)
    calls = [
        lambda: pair.queue.submit(batch),
        lambda: pair.queue.submit_read(0, memory, 2),
        lambda: pair.queue.read_into(0, memory),
        lambda: pair.queue.readv(0, [memory], 3),
        pair.queue.poll,
        pair.queue.reap,
    ]
    try:
        for call in calls:
            with pytest.raises(AlreadyUsed, match="two threads"):
                call()
    finally:
        pair.answer()
        done.set()
        thread.join()
    assert pair.queue.poll() == ()


# --- The closed loop ---


@every
def test_a_loop_does_as_many_requests_as_asked_and_times_each(
    make: Any, indirect: bool, in_order: bool, event_idx: bool
) -> None:
    pair = Pair(make, indirect=indirect, ring={"in_order": in_order, "event_idx": event_idx})
    latencies = Histogram()
    for depth, count in ((1, 50), (4, 300), (16, 1000)):
        latencies.clear()
        with pair.serving(count):
            done, nanoseconds = pair.queue.run(buffer(), depth=depth, requests=count, latencies=latencies)
        assert (done, pair.queue.outstanding) == (count, 0)
        assert nanoseconds > 0
        # Those that are waited for at the end are not timed.
        assert count - 16 <= latencies.count <= count
    assert pair.queue.ring.free == 16


def test_a_loop_ends_when_it_is_told_to() -> None:
    pair = Pair()
    with pytest.raises(InvalidParam, match="without an end"):
        pair.queue.run(buffer())
    with pair.serving(4):
        assert pair.queue.run(buffer(), stop=b"\1", depth=4, length=512)[0] == 4
    with pytest.raises(InvalidParam, match="end behind a buffer"):
        pair.queue.run(buffer(4096), requests=1)
    pair.queue.set_capacity(0)
    with pytest.raises(InvalidParam, match="end behind the disk"):
        pair.queue.run(buffer(), length=512, depth=1, requests=1)


def test_a_loop_of_writes_stays_on_the_disk_and_raises_what_failed() -> None:
    pair = Pair(capacity=24)
    for seed in range(1, 20):
        with pair.serving(1, 1), pytest.raises(IoError, match=r"OUT at sector (0|8|16) on queue 0"):
            pair.queue.run(buffer(), requests=5, depth=1, write_share=1.0, seed=seed)


def test_tags_are_objects_of_their_own() -> None:
    pair = Pair()
    tags = (10**6, 2**63, 257)
    for tag in tags:
        pair.queue.submit_read(0, buffer(), tag)
    pair.serve(3)
    completions = pair.queue.reap(3)
    kept = [completions.tags for _ in range(100)]
    assert set(kept) == {tags}
    assert all(sys.getrefcount(tag) < 10 for tag in completions.tags)


@pytest.mark.parametrize("make", MAKES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_a_device_writes_it_is_a_result_or_a_typed_error(make: Any, data: st.DataObject) -> None:
    """Requests of all kinds, and a device that writes used entries, statuses and indices as it likes."""
    in_order = data.draw(st.booleans())
    pair = Pair(make, 8, indirect=data.draw(st.booleans()), ring={"in_order": in_order, "table_parts": 0})
    memory = buffer()
    sent: list[int] = []
    told: list[int] = []
    try:
        for tag in range(data.draw(st.integers(1, 30))):
            step = data.draw(st.sampled_from(["read", "write", "vector", "serve", "lie", "poll"]))
            try:
                if step == "read":
                    pair.queue.submit_read(tag, memory, tag, 0, 512)
                    sent.append(tag)
                elif step == "write":
                    pair.queue.submit_write(tag, memory, tag, 512, 1024)
                    sent.append(tag)
                elif step == "vector":
                    pair.queue.readv(tag, [(memory, 0, 512), (memory, 512, 512)], tag)
                    sent.append(tag)
            except QueueFull:
                pass
            if step == "serve" and (chain := pair.loop.device.fetch()) is not None:
                pair.answer(data.draw(st.sampled_from([0, 0, 0, 1, 2, 9, None])), chain=chain)
            elif step == "lie":
                number, length = data.draw(st.integers(0, 0xFFFF)), data.draw(st.integers(0, 2**32 - 1))
                if make is PackedLoopback:
                    pair.loop.device.put_used(data.draw(st.integers(0, 7)), number, length, 0x8080)
                else:
                    pair.loop.device.put_used(data.draw(st.integers(0, 7)), number, length)
                    pair.loop.device.set_used_idx(data.draw(st.integers(0, 9)))
            elif step == "poll":
                try:
                    told += pair.queue.poll()
                except IoError as error:
                    told.append(-1 if error.tag is None else error.tag)
    except (QueueBroken, DriverViolation):
        pass
    assert set(told) <= set(sent)
    assert len(told) == len(set(told))
    assert pair.loop.guards_intact()
    pair.queue.reset()
    pair.loop.renew_device()
    pair.queue.submit_read(0, memory, 99, 0, 512)
    pair.answer()
    assert 99 in pair.queue.reap(1).tags
