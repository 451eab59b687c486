"""Requests of several parts, requests that are waited for, and what a list of those in flight says."""

from __future__ import annotations

import ctypes
from array import array
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import pytest

from cython_ring import Doorbell, Engine, Loopback, PackedLoopback, RingBroken, RingFull, RingUsageError

MAKES: list[Any] = [Loopback, PackedLoopback]
SECOND = 1_000_000_000
AT = 0x7000_0000

every = pytest.mark.parametrize(("make", "indirect", "in_order"), list(product(MAKES, [True, False], [False, True])))


def set_up(make: Any, size: int = 16, indirect: bool = True, bell: Any = None, **options: Any) -> tuple[Any, Engine]:
    loop = make(size, slots=True, **options)
    return loop, Engine(
        loop.driver, loop.slot_memory(), indirect=indirect, owner=loop.memory, doorbell=bell and Doorbell.call(bell)
    )


def read(tag: int) -> array[int]:
    return array("Q", [0, 8 * tag, AT, tag, 512 | 1 << 32])


def reap(engine: Engine, room: int = 32) -> list[tuple[int, int, int]]:
    out = array("Q", bytes(16 * room))
    return [
        (out[2 * i], out[2 * i + 1] & 0xFFFFFFFF, out[2 * i + 1] >> 32) for i in range(engine.reap(out))
    ]  # fmt: skip


# --- Several parts ---


@every
@pytest.mark.parametrize("table_parts", [0, 4])
def test_the_device_sees_head_parts_and_tail(make: Any, indirect: bool, in_order: bool, table_parts: int) -> None:
    loop, engine = set_up(make, 16, indirect, in_order=in_order, table_parts=table_parts)
    for turn in range(12):
        parts = [(AT + 0x1000 * n, 512 << n) for n in range(1 + turn % 4)]
        writable = turn % 3 > 0
        assert engine.put(turn % 2, turn, parts, writable, turn)
        assert engine.submit(read(100 + turn)) == 1
        chain = loop.device.fetch()
        data = chain.writable[:-1] if writable else chain.readable[1:]
        assert data == parts
        head = ctypes.string_at(*chain.readable[0])
        assert head == (turn % 2).to_bytes(8, "little") + turn.to_bytes(8, "little")
        ctypes.c_uint8.from_address(chain.writable[-1][0]).value = 0
        loop.device.complete(chain.head, chain.writable_bytes)
        assert loop.device.serve(1, SECOND, 0) == 1
        wrote = 1 + (sum(length for _, length in parts) if writable else 0)
        assert reap(engine) == [(turn, wrote, 0), (100 + turn, 513, 0)]
    assert loop.driver.free == 16
    assert loop.guards_intact()


@pytest.mark.parametrize("make", MAKES)
def test_parts_for_which_there_is_no_room_are_not_taken(make: Any) -> None:
    loop, engine = set_up(make, 8)
    assert engine.put(0, 0, [(AT, 512)] * 4, True, 1)
    assert not engine.put(0, 0, [(AT, 512)] * 4, True, 2)
    assert engine.tags() == [1]
    assert loop.device.serve(1, SECOND, 0) == 1
    assert reap(engine) == [(1, 4 * 512 + 1, 0)]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([(AT, 512)] * 7, "merge or split"),
        ([(AT, 0)], "length"),
        ([(AT, 1 << 32)], "length"),
        ([(AT, 1 << 31), (AT, 1 << 31)], "split it"),
        ([(1 << 64, 512)], "of 64 bits"),
    ],
)
def test_parts_that_cannot_be_are_refused_and_leave_nothing(parts: Any, says: str) -> None:
    loop, engine = set_up(Loopback, 8)
    with pytest.raises(RingUsageError, match=says):
        engine.put(0, 0, parts, True, 1)
    assert (engine.tags(), loop.driver.free) == ([], 8)
    assert engine.put(0, 0, [(AT, 512)], True, 1)


def test_parts_that_raise_leave_the_engine_as_it_was() -> None:
    _, engine = set_up(Loopback)

    def parts() -> Any:
        yield AT, 512
        with pytest.raises(RingUsageError):
            engine.submit(read(1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.put(0, 0, parts(), True, 1)
    assert engine.submit(read(2)) == 1
    assert engine.tags() == [2]


# --- Calls ---


@every
def test_a_call_returns_what_the_device_said(make: Any, indirect: bool, in_order: bool) -> None:
    loop, engine = set_up(make, 8, indirect, in_order=in_order)
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(loop.device.serve, 40, 30 * SECOND, 3)
        for turn in range(40):
            assert engine.call(0, turn, AT, 512 * (turn % 2), True) == (512 * (turn % 2) + 1, 3)
        assert served.result() == 40
    assert (engine.tags(), loop.driver.free) == ([], 8)


@every
def test_what_else_completes_meanwhile_is_kept_in_order(make: Any, indirect: bool, in_order: bool) -> None:
    loop, engine = set_up(make, 16, indirect, lambda _: loop.device.serve(1, SECOND, 0), in_order=in_order)
    loop.device.serve(0, 0)
    bell = engine.doorbell
    assert bell is not None
    for tag in (1, 2):
        engine.submit(read(tag))
    assert engine.call(0, 9, AT, 512, True) == (513, 0)
    assert reap(engine) == [(1, 513, 0), (2, 513, 0)]
    assert reap(engine) == []
    assert bell.count == 3


@pytest.mark.parametrize("make", MAKES)
def test_the_completion_of_a_call_that_gave_up_is_dropped_when_it_comes(make: Any) -> None:
    loop, engine = set_up(make)
    assert engine.call(0, 1, AT, 512, True, 1000) is None
    assert engine.call(0, 2, AT, 512, True, 0) is None
    engine.submit(read(5))
    assert len(engine.requests()) == 3
    assert loop.device.serve(3, SECOND, 0) == 3
    assert reap(engine) == [(5, 513, 0)]
    assert (engine.tags(), loop.driver.free) == ([], 16)


@pytest.mark.parametrize("make", MAKES)
def test_a_call_that_is_slow_notifies_once_more(make: Any) -> None:
    rung: list[int] = []
    loop, engine = set_up(make, bell=rung.append)
    assert engine.call(0, 1, AT, 512, True, 2_000_000) is None
    assert len(rung) == 2
    assert loop.device.serve(1, SECOND, 0) == 1


@pytest.mark.parametrize("make", MAKES)
def test_a_call_into_a_full_ring_is_refused(make: Any) -> None:
    loop, engine = set_up(make, 4)
    engine.submit(array("Q", [word for tag in range(4) for word in read(tag)]))
    with pytest.raises(RingFull):
        engine.call(0, 0, AT, 512, True, 0)
    assert loop.device.serve(4, SECOND, 0) == 4
    assert len(reap(engine)) == 4


def test_a_call_on_a_ring_that_breaks_raises_it() -> None:
    loop, engine = set_up(Loopback, bell=lambda _: (loop.device.put_used(0, 99, 1), loop.device.set_used_idx(1)))
    with pytest.raises(RingBroken, match="out of range"):
        engine.call(0, 0, AT, 512, True)


def test_what_the_doorbell_raises_ends_the_call_and_its_completion_is_dropped() -> None:
    def ring(_: int) -> None:
        raise ConnectionError

    loop, engine = set_up(Loopback, bell=ring)
    with pytest.raises(ConnectionError):
        engine.call(0, 0, AT, 512, True)
    assert loop.device.serve(1, SECOND, 0) == 1
    assert reap(engine) == []
    assert loop.driver.free == 16


# --- What is in flight ---


@every
def test_requests_in_flight_are_listed_oldest_first(make: Any, indirect: bool, in_order: bool) -> None:
    loop, engine = set_up(make, 16, indirect, in_order=in_order)
    engine.submit(array("Q", [1, 8, AT, 70, 1024]))
    engine.put(0, 16, [(AT, 512), (AT + 0x1000, 512)], True, 71)
    engine.submit(array("Q", [4, 0, 0, 72, 0]))
    rest = [(0, 16, 0, 71, 1024, True), (4, 0, 0, 72, 0, False)]
    assert engine.requests() == [(1, 8, AT, 70, 1024, False), *rest]
    assert loop.device.serve(1, SECOND, 0) == 1
    assert reap(engine) == [(70, 1, 0)]
    assert engine.requests() == rest
    loop.driver.close()
    assert engine.requests() == rest


@pytest.mark.parametrize("make", MAKES)
def test_after_a_reset_the_tags_are_told_but_for_calls_and_all_begins_anew(make: Any) -> None:
    loop, engine = set_up(make, 4)
    engine.submit(read(5))
    assert engine.call(0, 1, AT, 512, True, 0) is None
    engine.submit(read(6))
    assert engine.reset() == [5, 6]
    loop.renew_device()
    assert (engine.tags(), loop.driver.free) == ([], 4)
    for turn in range(9):
        engine.submit(read(turn))
        assert loop.device.serve(1, SECOND, 0) == 1
        assert reap(engine) == [(turn, 513, 0)]
