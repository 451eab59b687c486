from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cython_ring import Loopback, RingBroken, SplitRing

READ = ([(0x1000, 16)], [(0x2000, 512), (0x3000, 1)])


def with_one_request(size: int = 8, **options: Any) -> Loopback:
    """Head 0, three descriptors, 513 writable bytes, available to the device."""
    loop = Loopback(size, **options)
    loop.driver.add(*READ, "token")
    loop.driver.publish()
    return loop


def claim(loop: Loopback, used_id: int, length: int = 0) -> None:
    """The device says that it used `used_id`, as its first used element."""
    loop.device.put_used(0, used_id, length)
    loop.device.set_used_idx(1)


def broken_by(loop: Loopback) -> RingBroken:
    with pytest.raises(RingBroken) as caught:
        loop.driver.pop()
    return caught.value


@pytest.mark.fault(19)
@pytest.mark.parametrize("used_id", [8, 9, 0xFFFF, 0x10000, 0x80000000, 0xFFFFFFFF])
def test_a_used_id_out_of_range_breaks_the_ring_whatever_its_low_16_bits_say(used_id: int) -> None:
    loop = with_one_request()
    claim(loop, used_id, 5)
    error = broken_by(loop)
    assert (error.kind, error.id, error.length, error.index) == ("used id out of range", used_id, 5, 0)


@pytest.mark.fault(20)
@pytest.mark.parametrize(("used_id", "what"), [(1, "mid-chain"), (2, "the last of a chain"), (3, "free"), (7, "free")])
def test_a_used_id_that_heads_no_chain_breaks_the_ring(used_id: int, what: str) -> None:
    loop = with_one_request()
    claim(loop, used_id)
    assert broken_by(loop).kind == "used id not outstanding", what


@pytest.mark.fault(20)
def test_a_used_id_that_comes_twice_breaks_the_ring() -> None:
    loop = Loopback(8)
    for token in "ab":
        loop.driver.add(*READ, token)
    loop.driver.publish()
    loop.device.put_used(0, 0, 513)
    loop.device.put_used(1, 0, 513)
    loop.device.set_used_idx(2)
    assert loop.driver.pop() == ("a", 513)
    error = broken_by(loop)
    assert (error.kind, error.id, error.index) == ("used id not outstanding", 0, 1)
    assert loop.driver.tokens() == ["b"]


def test_a_chain_that_was_never_published_cannot_be_used() -> None:
    loop = with_one_request()
    head = loop.driver.add([(0x1000, 1)], [], "secret")
    claim(loop, head)
    assert broken_by(loop).kind == "used id not outstanding"


def test_nothing_can_be_used_before_anything_was_published() -> None:
    loop = Loopback(8)
    loop.driver.add(*READ, "token")
    claim(loop, 0)
    assert broken_by(loop).kind == "used index jumped"


@pytest.mark.parametrize("length", [0, 512, 513])
def test_a_used_length_up_to_the_writable_bytes_is_believed(length: int) -> None:
    loop = with_one_request()
    claim(loop, 0, length)
    assert loop.driver.pop() == ("token", length)


@pytest.mark.fault(21)
@pytest.mark.parametrize("length", [514, 529, 0x10000, 0x80000000, 0xFFFFFFFF])
def test_a_used_length_over_the_writable_bytes_breaks_the_ring(length: int) -> None:
    loop = with_one_request()
    claim(loop, 0, length)
    error = broken_by(loop)
    assert (error.kind, error.length) == ("used length too long", length)


@pytest.mark.parametrize(("length", "believed"), [(0, 0), (513, 513), (514, 513), (0xFFFFFFFF, 513)])
def test_with_the_quirk_for_legacy_devices_a_used_length_is_clamped(length: int, believed: int) -> None:
    loop = with_one_request(clamp_used_length=True)
    claim(loop, 0, length)
    assert loop.driver.pop() == ("token", believed)


def test_a_used_length_is_believed_up_to_32_bits_when_all_of_4_gib_is_writable() -> None:
    loop = Loopback(2)
    loop.driver.add([], [(0x1000, 0xFFFFFFFF), (0x1000, 1)], "token")
    loop.driver.publish()
    claim(loop, 0, 0xFFFFFFFF)
    assert loop.driver.pop() == ("token", 0xFFFFFFFF)


@pytest.mark.fault(22)
@pytest.mark.parametrize("used_idx", [2, 8, 9, 0x8000, 0xFFFF])
def test_a_used_index_ahead_of_what_is_outstanding_breaks_the_ring(used_idx: int) -> None:
    loop = with_one_request()
    loop.device.set_used_idx(used_idx)
    error = broken_by(loop)
    assert (error.kind, error.index) == ("used index jumped", used_idx)


@pytest.mark.fault(23)
@pytest.mark.parametrize("first_index", [0, 65534])
def test_a_used_index_that_goes_back_breaks_the_ring(first_index: int) -> None:
    loop = Loopback(8, first_index=first_index)
    for _ in range(3):
        loop.driver.add([(0x1000, 1)], [], None)
        loop.driver.publish()
        loop.device.serve(1, 0)
        loop.driver.pop()
    loop.driver.add([(0x1000, 1)], [], None)
    loop.driver.publish()
    loop.device.set_used_idx((first_index + 2) & 0xFFFF)
    assert broken_by(loop).kind == "used index jumped"


def test_a_broken_ring_raises_the_same_from_every_call_and_still_lists_and_dumps_and_closes() -> None:
    loop = with_one_request()
    claim(loop, 0x10000, 7)
    first = broken_by(loop)
    loop.device.put_used(0, 0, 0)
    for call in calls(loop.driver):
        with pytest.raises(RingBroken) as caught:
            call()
        assert (str(caught.value), caught.value.kind) == (str(first), first.kind)
    assert loop.driver.tokens() == ["token"]
    assert loop.driver.dump()["broken"] == "used id out of range"
    loop.driver.close()


def calls(ring: SplitRing) -> list[Any]:
    """Every method that touches the ring."""
    return [
        lambda: ring.add([(0x1000, 1)], [], None),
        ring.publish,
        ring.needs_notification,
        ring.pop,
        ring.can_pop,
        lambda: ring.wait(10**9, 0),
        lambda: ring.set_used_notifications(True),
    ]


def test_a_dump_of_a_ring_whose_used_index_is_garbage_is_bounded() -> None:
    loop = with_one_request()
    loop.device.set_used_idx(0xFFFF)
    assert len(loop.driver.dump()["shared"]["used_waiting"]) == 8


@pytest.mark.fault(25)
@pytest.mark.parametrize("seed", range(5))
def test_a_device_that_rewrites_the_table_and_the_available_ring_changes_nothing(seed: int) -> None:
    noise = random.Random(seed)
    loop = Loopback(16)
    live: dict[int, int] = {}
    used = 0
    for token in range(300):
        while loop.driver.free < 3:
            used = _use_one(loop, live, used, noise)
        live[loop.driver.add(*READ, token)] = token
        loop.driver.publish()
        loop.view("desc")[:] = noise.randbytes(16 * 16)
        loop.view("avail").cast("H")[2:] = memoryview(noise.randbytes(2 * 17)).cast("H")
    while live:
        used = _use_one(loop, live, used, noise)
    assert (loop.driver.free, loop.driver.outstanding) == (16, 0)
    assert loop.guards_intact()


def _use_one(loop: Loopback, live: dict[int, int], used: int, noise: random.Random) -> int:
    head = noise.choice(list(live))
    loop.device.put_used(used, head, 9)
    loop.device.set_used_idx(used + 1 & 0xFFFF)
    assert loop.driver.pop() == (live.pop(head), 9)
    return used + 1


# --- Any garbage at all ---

SIZE = 8
IDS = st.one_of(
    st.integers(0, SIZE + 1),
    st.sampled_from([0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000]),
    st.integers(0, SIZE).map(lambda valid: 0x10000 + valid),
    st.integers(0, 0xFFFFFFFF),
)
LENGTHS = st.one_of(
    st.integers(0, 600), st.sampled_from([513, 514, 0xFFFFFFFF, 0x80000000]), st.integers(0, 0xFFFFFFFF)
)
ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("publish")),
    st.tuples(st.just("element"), st.integers(0, SIZE - 1), IDS, LENGTHS),
    st.tuples(st.just("advance"), st.integers(-2, 4)),
    st.tuples(st.just("index"), st.integers(0, 0xFFFF)),
    st.tuples(st.just("scribble"), st.binary(min_size=16 * SIZE, max_size=16 * SIZE)),
    st.tuples(st.just("notifications"), st.booleans()),
    st.tuples(st.just("honest")),
    st.tuples(st.just("pop")),
)


class Target:
    """A ring under attack, and what is true of it whatever the device writes."""

    def __init__(self, event_idx: bool, clamp: bool, first_index: int) -> None:
        self.loop = Loopback(SIZE, event_idx=event_idx, clamp_used_length=clamp, first_index=first_index)
        self.used_idx = first_index
        self.limits: dict[int, int] = {}  # by token: writable bytes
        self.published: set[int] = set()
        self.parts: dict[int, int] = {}
        self.next_token = 0

    def add(self, readable: int, writable: int) -> None:
        if 0 < readable + writable <= self.loop.driver.free:
            token = self.next_token = self.next_token + 1
            self.loop.driver.add([(0x1000, 16)] * readable, [(0x2000, 200)] * writable, token)
            self.limits[token] = 200 * writable
            self.parts[token] = readable + writable

    def publish(self) -> None:
        self.loop.driver.publish()
        self.published |= set(self.limits)
        assert self.loop.driver.needs_notification() in (False, True)

    def element(self, slot: int, used_id: int, length: int) -> None:
        self.loop.device.put_used(slot, used_id, length)

    def index(self, value: int) -> None:
        self.used_idx = value
        self.loop.device.set_used_idx(value)

    def advance(self, by: int) -> None:
        self.index(self.used_idx + by & 0xFFFF)

    def scribble(self, data: bytes) -> None:
        self.loop.view("desc")[:] = data

    def notifications(self, enabled: bool) -> None:
        self.loop.driver.set_used_notifications(enabled)

    def honest(self) -> None:
        """Complete the oldest chain as a good device would, if the indices are still what it would have."""
        dump = self.loop.driver.dump()
        if self.published and dump["popped_idx"] == self.used_idx:
            oldest = dump["outstanding"][0]
            self.element(self.used_idx % SIZE, oldest["head"], self.limits[oldest["token"]])
            self.advance(1)

    def pop(self) -> None:
        for _ in range(SIZE + 1):
            popped = self.loop.driver.pop()
            if popped is None:
                return
            token, written = popped
            self.published.remove(token)
            assert 0 <= written <= self.limits.pop(token)
            del self.parts[token]
        raise AssertionError("more completions than the ring has room for")

    def check(self) -> None:
        driver = self.loop.driver
        assert set(driver.tokens()) == set(self.limits)
        assert driver.outstanding == len(self.limits)
        assert driver.free == SIZE - sum(self.parts.values())
        assert self.loop.guards_intact()


@given(
    actions=st.lists(ACTIONS, max_size=60),
    event_idx=st.booleans(),
    clamp=st.booleans(),
    first_index=st.sampled_from([0, 65530, 65535]),
)
@settings(max_examples=400, deadline=None)
def test_whatever_the_device_writes_the_ring_is_broken_or_right(
    actions: list[tuple[Any, ...]], event_idx: bool, clamp: bool, first_index: int
) -> None:
    target = Target(event_idx, clamp, first_index)
    try:
        for name, *arguments in actions:
            getattr(target, name)(*arguments)
            target.check()
        target.pop()
    except RingBroken as error:
        with pytest.raises(RingBroken, match=error.kind):
            target.loop.driver.publish()
    target.check()
