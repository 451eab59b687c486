from __future__ import annotations

import ctypes
import random
from array import array
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cython_ring import Chain, Engine, Loopback, PackedLoopback, RingBroken, RingUsageError, SlotMemory

Both = Loopback | PackedLoopback
SECOND = 1_000_000_000
DATA, LENGTH = 0x7000_0000, 4096
AVAIL, USED = 1 << 7, 1 << 15

MAKES: list[Any] = [Loopback, PackedLoopback]

every = pytest.mark.parametrize(
    ("make", "indirect", "in_order", "event_idx"),
    list(product(MAKES, [True, False], [False, True], [False, True])),
)


def set_up(
    make: Any, size: int = 8, *, indirect: bool = True, engine: Any = None, **options: Any
) -> tuple[Both, Engine]:
    loop: Both = make(size, slots=True, **options)
    return loop, Engine(loop.driver, loop.slot_memory(), indirect=indirect, owner=loop.memory, **(engine or {}))


def requests(*each: tuple[int, int, int, int, int]) -> array[int]:
    """(head0, head1, tag, length, writable) of each."""
    words: list[int] = []
    for head0, head1, tag, length, writable in each:
        words += [head0, head1, DATA, tag, length | writable << 32]
    return array("Q", words)


def reads(*tags: int) -> array[int]:
    return requests(*[(0, 8 * tag, tag, LENGTH, 1) for tag in tags])


def reap(engine: Engine, room: int = 64, **options: Any) -> list[tuple[int, int, int]]:
    """(tag, written, tail) of each completion."""
    out = array("Q", bytes(16 * room))
    count = engine.reap(out, **options)
    return [(out[2 * i], out[2 * i + 1] & 0xFFFFFFFF, out[2 * i + 1] >> 32) for i in range(count)]


def set_tail(chain: Chain, value: int) -> None:
    ctypes.c_uint8.from_address(chain.writable[-1][0]).value = value


def fetch(loop: Both) -> Chain:
    chain = loop.device.fetch()
    assert chain is not None
    return chain


# --- What the device gets ---


@every
def test_the_device_sees_head_data_and_tail(make: Any, indirect: bool, in_order: bool, event_idx: bool) -> None:
    loop, engine = set_up(make, indirect=indirect, in_order=in_order, event_idx=event_idx)
    assert engine.submit(requests((1, 0xABCDEF, 77, LENGTH, 0), (0, 5, 78, 512, 1))) == 2
    write = fetch(loop)
    head = write.readable[0]
    assert ctypes.string_at(*head) == (1).to_bytes(8, "little") + (0xABCDEF).to_bytes(8, "little")
    assert write.readable[1:] == [(DATA, LENGTH)]
    assert [length for _, length in write.writable] == [1]
    assert loop.view("tails")[64 * write.head] == 0xFF
    read = fetch(loop)
    assert [length for _, length in read.readable] == [16]
    assert [length for _, length in read.writable] == [512, 1]
    assert read.writable[0][0] == DATA
    assert engine.tags() == [77, 78]


@every
def test_requests_without_data_and_with_it_take_turns_in_the_same_slot(
    make: Any, indirect: bool, in_order: bool, event_idx: bool
) -> None:
    loop, engine = set_up(make, 4, indirect=indirect, in_order=in_order, event_idx=event_idx)
    for tag in range(40):
        length, writable = random.choice([(0, 0), (0, 1), (512, 0), (512, 1)])
        assert engine.submit(requests((4, tag, tag, length, writable))) == 1
        chain = fetch(loop)
        sizes = [size for _, size in chain.readable], [size for _, size in chain.writable]
        data = [length] if length else []
        assert sizes == (([16], [*data, 1]) if writable else ([16, *data], [1]))
        set_tail(chain, 0)
        loop.device.complete(chain.head, 1)
        assert reap(engine) == [(tag, 1, 0)]
    assert loop.guards_intact()


@every
def test_all_is_published_at_the_end_of_a_call_whatever_its_pieces(
    make: Any, indirect: bool, in_order: bool, event_idx: bool
) -> None:
    for publish_every in (1, 3, 4, 8, 100):
        options = {"publish_every": publish_every}
        loop, engine = set_up(make, 8, indirect=indirect, in_order=in_order, event_idx=event_idx, engine=options)
        for count in (1, 2, 8, 7):
            accepted = engine.submit(reads(*range(count)))
            assert loop.driver.needs_notification()
            assert loop.driver.publish() == 0
            assert loop.device.serve(9, 10**6, 0) == accepted
            assert [tag for tag, _, _ in reap(engine)] == list(range(accepted))


@pytest.mark.parametrize("make", [Loopback, PackedLoopback])
def test_heads_and_tails_have_the_bytes_that_were_asked_for(make: Any) -> None:
    loop, engine = set_up(make, engine={"head_bytes": 8, "tail_bytes": 12, "good": 3, "poison": 9})
    engine.submit(reads(1, 2))
    chain = fetch(loop)
    assert [length for _, length in chain.readable] == [8]
    assert [length for _, length in chain.writable] == [LENGTH, 12]
    set_tail(chain, 3)
    loop.device.complete(chain.head, LENGTH + 12)
    assert reap(engine) == [(1, LENGTH + 12, 3)]
    assert engine.failed == 0
    chain = fetch(loop)
    loop.device.complete(chain.head, 0)
    assert reap(engine) == [(2, 0, 9)]
    assert engine.failed == 1


# --- What comes back ---


@every
def test_a_tail_that_the_device_did_not_write_is_a_failure_each_time(
    make: Any, indirect: bool, in_order: bool, event_idx: bool
) -> None:
    loop, engine = set_up(make, 4, indirect=indirect, in_order=in_order, event_idx=event_idx)
    for value in (0, None, 0, 2, None):
        engine.submit(reads(5))
        chain = fetch(loop)
        if value is not None:
            set_tail(chain, value)
        loop.device.complete(chain.head, 1)
        assert reap(engine) == [(5, 1, 0xFF if value is None else value)]
        assert engine.failed == (value != 0)


@every
def test_a_full_ring_takes_no_more_until_something_was_reaped(
    make: Any, indirect: bool, in_order: bool, event_idx: bool
) -> None:
    loop, engine = set_up(make, 8, indirect=indirect, in_order=in_order, event_idx=event_idx)
    fits = 8 if indirect else 2
    for _ in range(20):
        assert engine.submit(reads(*range(12))) == fits
        assert engine.submit(reads(99)) == 0
        assert loop.device.serve(fits, SECOND, 0) == fits
        assert reap(engine, 1) == [(0, LENGTH + 1, 0)]
        assert engine.submit(reads(50, 51)) == 1
        assert [tag for tag, _, _ in reap(engine)] == list(range(1, fits))
        assert loop.device.serve(1, SECOND, 0) == 1
        assert reap(engine) == [(50, LENGTH + 1, 0)]
    assert loop.driver.free == 8
    assert loop.guards_intact()


def test_with_in_order_one_used_entry_completes_a_batch() -> None:
    for make in (Loopback, PackedLoopback):
        loop, engine = set_up(make, 8, in_order=True)
        for _ in range(10):
            engine.submit(reads(1, 2, 3, 4, 5))
            chains = [fetch(loop) for _ in range(5)]
            for chain in chains:
                set_tail(chain, 0)
            loop.device.complete(chains[2].head, 7)
            assert reap(engine, 2) == [(1, LENGTH + 1, 0), (2, LENGTH + 1, 0)]
            loop.device.complete(chains[4].head, 9)
            assert reap(engine) == [(3, 7, 0), (4, LENGTH + 1, 0), (5, 9, 0)]


@pytest.mark.parametrize("make", [Loopback, PackedLoopback])
def test_reap_waits_for_at_least_so_many_and_no_longer_than_asked(make: Any) -> None:
    loop, engine = set_up(make)
    engine.submit(reads(1, 2, 3))
    assert reap(engine, least=1, timeout_ns=10**6) == []
    with ThreadPoolExecutor(1) as pool:
        pool.submit(loop.device.serve, 3, SECOND, 0)
        assert len(reap(engine, least=3, timeout_ns=10 * SECOND)) == 3
    assert reap(engine, 0, least=3, timeout_ns=10 * SECOND) == []


@every
@given(
    steps=st.lists(
        st.one_of(st.integers(1, 12), st.sampled_from(["fetch", "complete", "reap", "reap one"])), max_size=60
    ),
    size=st.integers(3, 9),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_in_any_interleaving_each_request_comes_back_once_with_its_own_tail(
    make: Any, indirect: bool, in_order: bool, event_idx: bool, steps: list[Any], size: int, data: st.DataObject
) -> None:
    size = 8 if make is Loopback else size
    loop, engine = set_up(make, size, indirect=indirect, in_order=in_order, event_idx=event_idx)
    expected: dict[int, int] = {}
    done: list[int] = []
    held: list[tuple[int, Chain]] = []
    waiting: list[int] = []
    next_tag = 0
    for step in steps:
        if isinstance(step, int):
            tags = range(next_tag, next_tag + step)
            room = loop.driver.free // (1 if indirect else 3)
            accepted = engine.submit(reads(*tags))
            assert accepted == min(step, room)
            waiting += tags[:accepted]
            next_tag += accepted
        elif step == "fetch" and waiting:
            held.append((waiting.pop(0), fetch(loop)))
        elif step == "complete" and held:
            which = data.draw(st.integers(0, len(held) - 1))
            batch = held[: which + 1] if in_order else [held[which]]
            for tag, chain in batch:
                expected[tag] = tag % 3
                set_tail(chain, tag % 3)
                done.append(tag)
                held.remove((tag, chain))
            loop.device.complete(batch[-1][1].head, 1)
        elif step in ("reap", "reap one"):
            took = reap(engine, 1 if step == "reap one" else 64)
            assert [tag for tag, _, _ in took] == done[: len(took)]
            assert all(expected.pop(tag) == tail for tag, _, tail in took)
            del done[: len(took)]
            assert engine.failed == sum(tail != 0 for _, _, tail in took)
        assert set(engine.tags()) == {*done, *waiting, *[tag for tag, _ in held]}
    assert [tag for tag, _, _ in reap(engine)] == done
    assert loop.guards_intact()


@pytest.mark.parametrize(
    ("make", "size", "options"),
    [
        (Loopback, 256, {}),
        (Loopback, 64, {"event_idx": True, "platform_order": True, "in_order": True}),
        (PackedLoopback, 255, {}),
        (PackedLoopback, 61, {"event_idx": True, "in_order": True}),
        (PackedLoopback, 67, {"event_idx": True, "platform_order": True}),
    ],
)
def test_an_engine_and_a_device_in_two_threads_lose_and_mix_up_nothing(make: Any, size: int, options: Any) -> None:
    loop: Both = make(size, slots=True, **options)
    engine = Engine(loop.driver, loop.slot_memory(), indirect=True, owner=loop.memory)
    total, sent, done = 200_000, 0, 0
    out = array("Q", bytes(16 * size))
    # The device writes the tail only: the data are of no length that anything looks at.
    with ThreadPoolExecutor(1) as pool:
        device = pool.submit(loop.device.serve, total, 30 * SECOND, 0)
        while done < total:
            batch = requests(*[(0, 0, tag, 0, 0) for tag in range(sent, min(sent + 32, total))])
            sent += engine.submit(batch)
            count = engine.reap(out, 1, 20 * SECOND)
            assert count
            assert engine.failed == 0
            assert list(out[: 2 * count : 2]) == list(range(done, done + count))
            done += count
        assert device.result() == total
    assert loop.guards_intact()


# --- A device that lies ---


@pytest.mark.parametrize(
    ("used_id", "length", "kind"),
    [
        (8, 0, "out of range"),
        (0xFFFF, 0, "out of range"),
        (0, 0, "not outstanding"),
        (5, 0, "not outstanding"),
        (1, LENGTH + 2, "too long"),
        (1, 0xFFFFFFFF, "too long"),
    ],
)
@pytest.mark.parametrize("make", [Loopback, PackedLoopback])
@pytest.mark.parametrize("in_order", [False, True])
def test_what_came_before_a_lie_is_handed_out_and_then_the_ring_is_broken(
    make: Any, in_order: bool, used_id: int, length: int, kind: str
) -> None:
    loop, engine = set_up(make, 8, in_order=in_order)
    engine.submit(reads(10, 11, 12))
    if isinstance(loop, Loopback):
        loop.device.put_used(0, 0, 3)
        loop.device.put_used(1, used_id, length)
        loop.device.set_used_idx(2)
    else:
        loop.device.put_used(0, 0, 3, AVAIL | USED | 2)
        loop.device.put_used(1, used_id, length, AVAIL | USED | 2)
    assert reap(engine) == [(10, 3, 0xFF)]
    with pytest.raises(RingBroken, match=kind):
        reap(engine)
    with pytest.raises(RingBroken, match=kind):
        engine.submit(reads(1))
    assert engine.tags() == [11, 12]
    assert engine.reset() == [11, 12]
    loop.renew_device()
    assert engine.submit(reads(13)) == 1
    assert loop.device.serve(1, SECOND, -1) == 1
    assert reap(engine) == [(13, LENGTH + 1, 0xFF)]


def test_a_used_index_that_jumps_breaks_the_ring() -> None:
    loop, engine = set_up(Loopback)
    engine.submit(reads(1))
    assert isinstance(loop, Loopback)
    loop.device.set_used_idx(2)
    with pytest.raises(RingBroken, match="jumped"):
        reap(engine)


def test_with_the_quirk_for_legacy_devices_a_used_length_is_clamped() -> None:
    for make in (Loopback, PackedLoopback):
        loop, engine = set_up(make, clamp_used_length=True)
        engine.submit(reads(1, 2))
        for _ in range(2):
            loop.device.complete(fetch(loop).head, 0xFFFFFFFF)
        assert [written for _, written, _ in reap(engine)] == [LENGTH + 1] * 2


# --- Notifications ---


@pytest.mark.parametrize("make", [Loopback, PackedLoopback])
def test_used_notifications_that_are_off_stay_off_and_when_on_are_asked_for_where_a_drain_ended(make: Any) -> None:
    loop, engine = set_up(make, event_idx=True)
    loop.driver.set_used_notifications(False)
    wanted = 0
    for _ in range(9000):
        engine.submit(reads(*range(8)))
        loop.device.serve(8, SECOND, -1)
        wanted += loop.device.needs_used_notification()
        assert len(reap(engine)) == 8
    assert wanted == 0
    loop.driver.set_used_notifications(True)
    for _ in range(3):
        engine.submit(reads(1, 2))
        loop.device.serve(2, SECOND, -1)
        assert loop.device.needs_used_notification()
        assert len(reap(engine)) == 2
        assert reap(engine) == []


# --- The caller's mistakes ---


def test_a_ring_with_an_engine_refuses_to_add_and_to_pop() -> None:
    loop, engine = set_up(Loopback)
    with pytest.raises(RingUsageError, match="belongs to an engine"):
        loop.driver.add([(0x1000, 1)], [], None)
    with pytest.raises(RingUsageError, match="belongs to an engine"):
        loop.driver.pop()
    assert engine.ring is loop.driver


def test_a_ring_that_is_in_use_gets_no_engine() -> None:
    loop = Loopback(8, slots=True)
    loop.driver.add([(0x1000, 1)], [], None)
    with pytest.raises(RingUsageError, match="while it is empty"):
        Engine(loop.driver, loop.slot_memory())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"slots": {"address": 0x1010}}, "not a multiple of 64"),
        ({"slots": {"tails_device_address": 8}}, "not a multiple of 64"),
        ({"slots": {"address": 0}}, "no memory"),
        ({"head_bytes": 17}, "does not fit"),
        ({"tail_bytes": 0}, "does not fit"),
        ({"publish_every": 0}, "publish_every"),
        ({"good": 255}, "poison"),
    ],
)
def test_options_that_cannot_be_are_refused(change: dict[str, Any], says: str) -> None:
    loop = Loopback(8, slots=True)
    slots: SlotMemory = loop.slot_memory()._replace(**change.pop("slots", {}))
    with pytest.raises(RingUsageError, match=says):
        Engine(loop.driver, slots, **change)
    loop.driver.add([(0x1000, 1)], [], None)


def test_buffers_of_the_wrong_size_or_place_are_refused() -> None:
    _, engine = set_up(Loopback)
    with pytest.raises(RingUsageError, match="no multiple of 40"):
        engine.submit(bytes(41))
    with pytest.raises(RingUsageError, match="aligned"):
        engine.submit(memoryview(bytearray(48))[1:41])
    with pytest.raises(RingUsageError, match="no multiple of 16"):
        engine.reap(bytearray(15))
    with pytest.raises(BufferError):
        engine.reap(bytes(16))
    with pytest.raises(TypeError):
        engine.submit(7)  # type: ignore[arg-type]
    assert engine.submit(b"") == 0
    assert engine.reap(bytearray(0)) == 0


def test_a_closed_ring_takes_no_requests() -> None:
    loop, engine = set_up(Loopback)
    engine.submit(reads(3))
    loop.driver.close()
    for call in (lambda: engine.submit(reads(1)), lambda: reap(engine), engine.reset):
        with pytest.raises(RingUsageError, match="closed"):
            call()
    assert engine.tags() == [3]
