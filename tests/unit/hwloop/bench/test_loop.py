"""The loop in Cython, on a queue whose device is a thread of the test."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

import pytest

from cython_ring.histogram import Histogram
from hwloop.bench.loop import Loop
from hwloop.errors import AlreadyUsed, DeadlineExpired, InvalidParam, IoError
from tests.unit.hwloop.device.blk_queue_pair import CAPACITY, MAKES, Pair, buffer

BLOCK = 4096
PLACES = 8
FOREVER = (1 << 64) - 1


def loop_on(pair: Pair, depth: int = 4, **options: Any) -> Loop:
    return Loop(pair.queue, buffer(), **{"block_bytes": BLOCK, "depth": depth, "places": PLACES, "looks": 8, **options})


def recorded() -> tuple[Histogram, Histogram]:
    return Histogram(), Histogram()


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("depth", [1, 3, 16])
def test_so_many_requests_run_and_no_more(make: Any, depth: int) -> None:
    pair = Pair(make)
    loop = loop_on(pair, depth)
    reads, writes = recorded()
    with pair.serving(200):
        loop.run(FOREVER, 200, reads, writes)
    assert (loop.submitted, loop.completed, loop.in_flight) == (200, 200, 0)
    assert 1 <= loop.most_in_flight <= depth
    assert (reads.count, writes.count) == (200, 0)
    assert reads.minimum > 0
    assert pair.loop.guards_intact()


def test_a_mix_is_recorded_by_direction() -> None:
    pair = Pair(MAKES[0])
    loop = loop_on(pair, read_percent=50)
    reads, writes = recorded()
    with pair.serving(400):
        loop.run(FOREVER, 400, reads, writes)
    assert reads.count + writes.count == 400
    assert 100 < reads.count < 300


def test_a_loop_that_reads_sends_no_write() -> None:
    pair = Pair(MAKES[0])
    loop = loop_on(pair, depth=8)
    loop.run(time.monotonic_ns() + 1_000_000, 8)
    assert [header(pair)[0] for _ in range(8)] == [0] * 8
    loop.drain()


def header(pair: Pair) -> tuple[int, int]:
    data = ctypes.string_at(*pair.answer().readable[0])
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little")


def test_requests_in_order_begin_again_at_the_end() -> None:
    pair = Pair(MAKES[0])
    loop = loop_on(pair, depth=10, at_random=False, first_sector=80, start=5)
    loop.run(time.monotonic_ns() + 1_000_000, 10)
    places = [header(pair)[1] for _ in range(10)]
    assert places == [80 + 8 * place for place in (5, 6, 7, 0, 1, 2, 3, 4, 5, 6)]
    loop.drain()


def test_the_same_seed_goes_to_the_same_places_and_all_of_them_are_used() -> None:
    def places(seed: int) -> list[int]:
        pair = Pair(MAKES[0])
        loop = loop_on(pair, depth=16, seed=seed)
        loop.run(time.monotonic_ns() + 1_000_000, 16)
        found = [header(pair)[1] // 8 for _ in range(16)]
        loop.drain()
        return found

    assert places(1) == places(1) != places(2)
    assert {place for seed in range(12) for place in places(seed)} == set(range(PLACES))


def test_what_is_in_flight_at_the_end_of_the_time_is_drained() -> None:
    pair = Pair(MAKES[0])
    loop = loop_on(pair, looks=1 << 30)
    loop.run(time.monotonic_ns() + 1_000_000, 100)
    assert (loop.submitted, loop.completed, loop.in_flight) == (4, 0, 4)
    reads, writes = recorded()
    with pair.serving(4):
        loop.drain(reads, writes)
    assert (loop.completed, loop.in_flight, reads.count) == (4, 0, 4)
    assert reads.minimum > 1_000_000


def test_a_device_that_never_answers_ends_it() -> None:
    pair = Pair(MAKES[0])
    pair.queue.request_seconds = 0.05
    with pytest.raises(DeadlineExpired, match="a completion of queue 0"):
        loop_on(pair).run(FOREVER, 100)


def test_a_request_that_fails_ends_it_with_its_error() -> None:
    pair = Pair(MAKES[0])
    with pair.serving(4, 1), pytest.raises(IoError, match=r"IN at sector .* the device reports an I/O error"):
        loop_on(pair).run(FOREVER, 4)


def test_a_disk_that_became_smaller_ends_it() -> None:
    pair = Pair(MAKES[0])
    loop = loop_on(pair, places=CAPACITY // 8)
    pair.queue.set_capacity(8)
    with pytest.raises(InvalidParam, match="has become smaller"):
        loop.run(FOREVER, 100)
    assert loop.in_flight == 0


def test_a_buffer_that_is_too_small_is_refused() -> None:
    pair = Pair(MAKES[0])
    with pytest.raises(InvalidParam, match="do not fit a buffer"):
        loop_on(pair, depth=17)


def test_the_queue_is_its_own_while_it_runs() -> None:
    pair = Pair(MAKES[0])
    loop = loop_on(pair, looks=1 << 30)
    worker = threading.Thread(target=loop.run, args=(time.monotonic_ns() + 200_000_000, 4))
    worker.start()
    try:
        while not pair.queue.engine.ring.outstanding and worker.is_alive():
            pass
        refused = 0
        while worker.is_alive() and not refused:
            try:
                pair.queue.poll()
            except AlreadyUsed:
                refused += 1
    finally:
        worker.join()
    assert refused == 1
