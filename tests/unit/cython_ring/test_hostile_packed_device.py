from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cython_ring import PackedLoopback, RingBroken

READ = ([(0x1000, 16)], [(0x2000, 512), (0x3000, 1)])
WRITE, AVAIL, USED = 2, 1 << 7, 1 << 15
BOTH = AVAIL | USED


def with_one_request(size: int = 7, **options: Any) -> PackedLoopback:
    """Id 0, three descriptors, 513 writable bytes, available to the device."""
    loop = PackedLoopback(size, **options)
    loop.driver.add(*READ, "token")
    loop.driver.publish()
    return loop


def broken_by(loop: PackedLoopback) -> RingBroken:
    with pytest.raises(RingBroken) as caught:
        loop.driver.pop()
    return caught.value


@pytest.mark.fault(19)
@pytest.mark.parametrize("used_id", [7, 8, 0x8000, 0xFFFF])
def test_a_used_id_out_of_range_breaks_the_ring(used_id: int) -> None:
    loop = with_one_request()
    loop.device.put_used(0, used_id, 5, BOTH)
    error = broken_by(loop)
    assert (error.kind, error.id, error.length, error.index) == ("used id out of range", used_id, 5, 0x8000)


@pytest.mark.parametrize("used_id", [1, 2, 3, 6])
def test_a_used_id_that_heads_no_chain_breaks_the_ring(used_id: int) -> None:
    loop = with_one_request()
    loop.device.put_used(0, used_id, 0, BOTH)
    assert broken_by(loop).kind == "used id not outstanding"


@pytest.mark.fault(20, 24)
def test_a_used_id_that_comes_twice_breaks_the_ring() -> None:
    loop = PackedLoopback(7)
    for token in "ab":
        loop.driver.add(*READ, token)
    loop.driver.publish()
    loop.device.put_used(0, 0, 513, BOTH | WRITE)
    loop.device.put_used(3, 0, 513, BOTH | WRITE)
    assert loop.driver.pop() == ("a", 513)
    error = broken_by(loop)
    assert (error.kind, error.id, error.index) == ("used id not outstanding", 0, 0x8003)
    assert loop.driver.tokens() == ["b"]


def test_a_chain_that_was_never_published_cannot_be_used() -> None:
    loop = with_one_request()
    head = loop.driver.add([(0x1000, 1)], [], "secret")
    loop.device.put_used(0, head, 0, BOTH)
    assert broken_by(loop).kind == "used id not outstanding"


def test_nothing_can_be_used_before_anything_was_published() -> None:
    loop = PackedLoopback(3)
    loop.device.put_used(0, 0, 0, BOTH)
    assert broken_by(loop).kind == "used id not outstanding"


@pytest.mark.fault(24)
@pytest.mark.parametrize("flags", [0, AVAIL, USED, WRITE, USED | WRITE, 0x7F7F])
def test_flags_of_another_turn_or_half_of_them_are_no_completion(flags: int) -> None:
    loop = with_one_request()
    loop.device.put_used(0, 0, 5, flags)
    assert not loop.driver.can_pop()
    assert loop.driver.pop() is None
    loop.device.put_used(0, 0, 5, BOTH | WRITE)
    assert loop.driver.pop() == ("token", 5)


@pytest.mark.fault(24)
def test_marks_that_lie_about_the_wrap_counter_complete_nothing_in_the_second_turn() -> None:
    loop = PackedLoopback(3)
    for _ in range(3):
        loop.driver.add([(0x1000, 1)], [], None)
        loop.driver.publish()
        loop.device.serve(1, 0)
        loop.driver.pop()
    loop.driver.add(*READ, "token")
    loop.driver.publish()
    loop.device.put_used(0, 0, 0, BOTH)
    assert loop.driver.pop() is None
    loop.device.put_used(0, 0, 0, 0)
    assert loop.driver.pop() == ("token", 0)


def test_other_flags_in_a_used_descriptor_mean_nothing() -> None:
    loop = with_one_request()
    loop.device.put_used(0, 0, 9, 0xFFFF)
    assert loop.driver.pop() == ("token", 9)


@pytest.mark.fault(21)
@pytest.mark.parametrize("length", [514, 529, 0x10000, 0x80000000, 0xFFFFFFFF])
def test_a_used_length_over_the_writable_bytes_breaks_the_ring(length: int) -> None:
    loop = with_one_request()
    loop.device.put_used(0, 0, length, BOTH | WRITE)
    error = broken_by(loop)
    assert (error.kind, error.length) == ("used length too long", length)


@pytest.mark.parametrize(("length", "believed"), [(0, 0), (513, 513), (514, 513), (0xFFFFFFFF, 513)])
def test_with_the_quirk_or_without_the_write_flag_a_used_length_is_clamped(length: int, believed: int) -> None:
    loop = with_one_request(clamp_used_length=True)
    loop.device.put_used(0, 0, length, BOTH | WRITE)
    assert loop.driver.pop() == ("token", believed)
    loop = with_one_request()
    loop.device.put_used(0, 0, length, BOTH)
    assert loop.driver.pop() == ("token", believed)


@pytest.mark.fault(25)
def test_descriptors_that_the_device_rewrites_change_nothing_of_ours() -> None:
    loop = with_one_request()
    before = loop.driver.dump()["outstanding"][0]["descriptors"]
    loop.view("desc")[16:] = b"\xff" * (16 * 6)
    assert loop.driver.dump()["outstanding"][0]["descriptors"] == before
    loop.device.put_used(0, 0, 513, BOTH | WRITE)
    assert loop.driver.pop() == ("token", 513)
    assert loop.driver.free == 7


def test_a_broken_ring_raises_the_same_from_every_call_and_still_lists_and_dumps_and_closes() -> None:
    loop = with_one_request()
    loop.device.put_used(0, 99, 7, BOTH)
    first = broken_by(loop)
    ring = loop.driver
    for call in (ring.publish, ring.needs_notification, ring.pop, ring.can_pop, lambda: ring.wait(10**9, 0)):
        with pytest.raises(RingBroken) as caught:
            call()
        assert (str(caught.value), caught.value.kind) == (str(first), first.kind)
    assert ring.tokens() == ["token"]
    assert ring.dump()["broken"] == "used id out of range"
    ring.close()


# --- Any garbage at all ---

IDS = st.one_of(st.integers(0, 10), st.integers(0, 0xFFFF))
LENGTHS = st.one_of(st.integers(0, 600), st.sampled_from([0xFFFFFFFF, 0x80000000]), st.integers(0, 0xFFFFFFFF))
FLAGS = st.one_of(st.sampled_from([0, BOTH, BOTH | WRITE, WRITE, AVAIL, USED]), st.integers(0, 0xFFFF))
ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("publish")),
    st.tuples(st.just("descriptor"), st.integers(0, 15), IDS, LENGTHS, FLAGS),
    st.tuples(st.just("here"), IDS, LENGTHS, FLAGS),
    st.tuples(st.just("scribble"), st.integers(0, 8), st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("event"), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
    st.tuples(st.just("notifications"), st.booleans()),
    st.tuples(st.just("honest"), st.integers(0, 3)),
    st.tuples(st.just("pop")),
)


class Target:
    """A ring under attack, and what is true of it whatever the device writes."""

    def __init__(self, size: int, **options: Any) -> None:
        self.size = size
        self.loop = PackedLoopback(size, **options)
        self.in_order = bool(options.get("in_order"))
        self.indirect = bool(options.get("table_parts"))
        self.limits: dict[int, int] = {}  # by token: writable bytes
        self.published: set[int] = set()
        self.taken: dict[int, int] = {}
        self.next_token = 0

    def add(self, readable: int, writable: int) -> None:
        count = readable + writable
        needed = 1 if self.indirect and count > 1 else count
        if 0 < count <= self.size and needed <= self.loop.driver.free:
            token = self.next_token = self.next_token + 1
            self.loop.driver.add([(0x1000, 16)] * readable, [(0x2000, 200)] * writable, token)
            self.limits[token] = 200 * writable
            self.taken[token] = needed

    def publish(self) -> None:
        self.loop.driver.publish()
        self.published |= set(self.limits)
        assert self.loop.driver.needs_notification() in (False, True)

    def descriptor(self, position: int, used_id: int, length: int, flags: int) -> None:
        self.loop.device.put_used(position, used_id, length, flags)

    def here(self, used_id: int, length: int, flags: int) -> None:
        position, _ = self.loop.driver.dump()["next_used"]
        self.descriptor(position, used_id, length, flags)

    def scribble(self, at: int, data: bytes) -> None:
        data = data[: 16 * self.size - at]
        self.loop.view("desc")[at : at + len(data)] = data

    def event(self, place: int, flags: int) -> None:
        self.loop.device.set_device_event(place, flags)

    def notifications(self, enabled: bool) -> None:
        self.loop.driver.set_used_notifications(enabled)

    def honest(self, which: int) -> None:
        """Complete a chain as a good device would that starts from what the driver expects next."""
        dump = self.loop.driver.dump()
        chains = [chain for chain in dump["outstanding"] if chain["published"]]
        if chains:
            chain = chains[which % len(chains)]
            position, wrap = dump["next_used"]
            self.descriptor(position, chain["head"], self.limits[chain["token"]], WRITE | (BOTH if wrap else 0))

    def pop(self) -> None:
        for _ in range(self.size + 1):
            popped = self.loop.driver.pop()
            if popped is None:
                return
            token, written = popped
            self.published.remove(token)
            assert 0 <= written <= self.limits.pop(token)
            del self.taken[token]
        raise AssertionError("more completions than the ring has room for")

    def check(self) -> None:
        driver = self.loop.driver
        assert set(driver.tokens()) == set(self.limits)
        assert driver.outstanding == len(self.limits)
        assert driver.free == self.size - sum(self.taken.values())
        assert self.loop.guards_intact()


@given(
    actions=st.lists(ACTIONS, max_size=60),
    size=st.integers(1, 9),
    event_idx=st.booleans(),
    clamp=st.booleans(),
    in_order=st.booleans(),
    table_parts=st.sampled_from([0, 8]),
)
@settings(max_examples=400, deadline=None)
def test_whatever_the_device_writes_the_ring_is_broken_or_right(
    actions: list[tuple[Any, ...]], size: int, event_idx: bool, clamp: bool, in_order: bool, table_parts: int
) -> None:
    target = Target(size, event_idx=event_idx, clamp_used_length=clamp, in_order=in_order, table_parts=table_parts)
    try:
        for name, *arguments in actions:
            getattr(target, name)(*arguments)
            target.check()
        target.pop()
    except RingBroken as error:
        with pytest.raises(RingBroken, match=error.kind):
            target.loop.driver.publish()
    target.check()
