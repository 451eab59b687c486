from __future__ import annotations

import ctypes
import weakref
from typing import Any

import pytest

from cython_ring import PackedLoopback, PackedRing, Ring, RingBroken, RingFull, RingUsageError, SplitRing, packed_layout

READ = ([(0x1000, 16)], [(0x2000, 512), (0x3000, 1)])
AVAIL, USED = 1 << 7, 1 << 15
ODD_SIZES = [1, 2, 3, 5, 6, 7, 8, 100, 255]


class Token:
    """Something that a weak reference can watch."""


def fetch_and_complete(loop: PackedLoopback, written: int = 0) -> None:
    chain = loop.device.fetch()
    assert chain is not None
    loop.device.complete(chain.head, written)


def flags_of(loop: PackedLoopback) -> list[int]:
    return list(loop.view("desc").cast("H")[7::8])


# --- Layout ---


@pytest.mark.parametrize("size", [1, 3, 255, 256, 32767, 32768])
def test_no_two_areas_share_a_cache_line(size: int) -> None:
    layout = packed_layout(size)
    assert (layout.desc_offset, layout.desc_bytes) == (0, 16 * size)
    assert layout.driver_offset % 128 == layout.device_offset % 128 == 0
    assert layout.desc_bytes <= layout.driver_offset
    assert layout.driver_offset + layout.driver_bytes <= layout.device_offset
    assert layout.total == layout.device_offset + layout.device_bytes
    assert layout.driver_bytes == layout.device_bytes == 4


@pytest.mark.parametrize("size", [0, -1, 32769, 1 << 40, "8", 8.0])
def test_a_size_that_is_not_from_1_to_32768_is_refused(size: Any) -> None:
    with pytest.raises(RingUsageError, match="not from 1 to 32768"):
        packed_layout(size)
    with pytest.raises(RingUsageError, match="not from 1 to 32768"):
        PackedRing(size, 0x1000, 0x2000, 0x3000)


@pytest.mark.parametrize(
    ("desc", "driver", "device", "says"),
    [
        (0x1008, 0x2000, 0x3000, "descriptor ring at 0x1008 is not aligned to 16"),
        (0x1000, 0x2002, 0x3000, "driver event suppression at 0x2002 is not aligned to 4"),
        (0x1000, 0x2000, 0x3001, "device event suppression at 0x3001 is not aligned to 4"),
    ],
)
def test_areas_that_are_misaligned_are_refused_before_anything_is_written(
    desc: int, driver: int, device: int, says: str
) -> None:
    with pytest.raises(RingUsageError, match=says):
        PackedRing(8, desc, driver, device)


def test_both_formats_are_rings_and_a_ring_without_a_format_cannot_be_made() -> None:
    assert issubclass(PackedRing, Ring)
    assert issubclass(SplitRing, Ring)
    with pytest.raises(TypeError, match="a ring has a format"):
        Ring()


# --- One request ---


def test_the_ring_looks_as_the_specification_prints_it() -> None:
    loop = PackedLoopback(4)
    head = loop.driver.add(*READ, "token")
    loop.driver.publish()
    desc = loop.view("desc")
    assert [bytes(desc[16 * i : 16 * i + 12]) for i in range(3)] == [
        (0x1000).to_bytes(8, "little") + (16).to_bytes(4, "little"),
        (0x2000).to_bytes(8, "little") + (512).to_bytes(4, "little"),
        (0x3000).to_bytes(8, "little") + (1).to_bytes(4, "little"),
    ]
    assert flags_of(loop) == [AVAIL | 1, AVAIL | 1 | 2, AVAIL | 2, 0]
    assert desc.cast("H")[8 * 2 + 6] == head


def test_the_device_sees_the_parts_in_order_readable_ones_first() -> None:
    loop = PackedLoopback(8)
    head = loop.driver.add([(0x1000, 16), (0x1100, 4096)], [(0x2000, 512), (0x3000, 1)], "token")
    loop.driver.publish()
    chain = loop.device.fetch()
    assert chain is not None
    assert chain.head == head
    assert chain.readable == [(0x1000, 16), (0x1100, 4096)]
    assert chain.writable == [(0x2000, 512), (0x3000, 1)]


def test_of_a_batch_only_the_first_descriptors_flags_are_withheld_until_it_is_published() -> None:
    loop = PackedLoopback(8)
    loop.driver.add(*READ, "first")
    loop.driver.add(*READ, "second")
    assert flags_of(loop)[:6] == [0, AVAIL | 3, AVAIL | 2, AVAIL | 1, AVAIL | 3, AVAIL | 2]
    assert loop.device.fetch() is None
    assert loop.driver.publish() == 2
    assert flags_of(loop)[0] == AVAIL | 1
    assert loop.device.available() == 6
    assert loop.driver.publish() == 0


@pytest.mark.parametrize("size", ODD_SIZES)
def test_a_batch_is_invisible_until_it_is_published_in_every_turn_of_the_ring(size: int) -> None:
    loop = PackedLoopback(size)
    for _ in range(5):
        for token in range(size):
            loop.driver.add([(0x1000, 1)], [], token)
        assert loop.device.fetch() is None
        assert loop.driver.publish() == size
        for _ in range(size):
            fetch_and_complete(loop)
        assert [loop.driver.pop() for _ in range(size)] == [(token, 0) for token in range(size)]
        loop.driver.add([(0x1000, 1)], [], "one more")
        loop.driver.publish()
        fetch_and_complete(loop)
        assert loop.driver.pop() == ("one more", 0)
        assert loop.driver.pop() is None


def test_a_completion_brings_back_the_token_and_the_bytes_written() -> None:
    loop = PackedLoopback(8)
    token = Token()
    loop.driver.add(*READ, token)
    loop.driver.publish()
    assert loop.driver.pop() is None
    fetch_and_complete(loop, 513)
    assert loop.driver.can_pop()
    assert loop.driver.pop() == (token, 513)
    assert loop.driver.pop() is None
    assert not loop.driver.can_pop()


def test_completions_come_in_the_order_of_the_device() -> None:
    loop = PackedLoopback(8)
    loop.driver.add(*READ, "a")
    loop.driver.add([(0x1000, 1)], [], "b")
    loop.driver.publish()
    chains = [loop.device.fetch(), loop.device.fetch()]
    for chain in reversed(chains):
        assert chain is not None
        loop.device.complete(chain.head, 0)
    assert [loop.driver.pop(), loop.driver.pop(), loop.driver.pop()] == [("b", 0), ("a", 0), None]


def test_a_chain_is_kept_while_others_overwrite_its_descriptors() -> None:
    """The device has a chain of three while chains that came later go round in the places that it leaves."""
    loop = PackedLoopback(5)
    loop.driver.add(*READ, "slow")
    loop.driver.publish()
    slow = loop.device.fetch()
    assert slow is not None
    for token in range(20):
        loop.driver.add([(0x1000, 1)], [], token)
        loop.driver.publish()
        fetch_and_complete(loop)
        assert loop.driver.pop() == (token, 0)
    loop.device.complete(slow.head, 513)
    assert loop.driver.pop() == ("slow", 513)
    assert loop.driver.free == 5


@pytest.mark.parametrize("size", [3, 4, 5, 7])
@pytest.mark.parametrize("platform_order", [False, True])
@pytest.mark.parametrize("event_idx", [False, True])
def test_chains_that_wrap_keep_their_parts_and_lengths(size: int, event_idx: bool, platform_order: bool) -> None:
    loop = PackedLoopback(size, event_idx=event_idx, platform_order=platform_order)
    for token in range(1000):
        loop.driver.add(*READ, token)
        loop.driver.publish()
        chain = loop.device.fetch()
        assert chain is not None
        assert (chain.readable, chain.writable) == READ
        loop.device.complete(chain.head, token % 514)
        assert loop.driver.pop() == (token, token % 514)
    assert loop.driver.free == size
    assert loop.guards_intact()


def test_a_device_that_never_sets_write_in_used_descriptors_is_believed_up_to_what_it_could_write() -> None:
    loop = PackedLoopback(8, quiet_flags=True)
    for length, believed in ((0, 0), (7, 7), (513, 513), (514, 513), (0xFFFFFFFF, 513)):
        loop.driver.add(*READ, "token")
        loop.driver.publish()
        fetch_and_complete(loop, length)
        assert loop.driver.pop() == ("token", believed)


# --- Room ---


def test_a_full_ring_refuses_a_chain_and_changes_nothing() -> None:
    loop = PackedLoopback(4)
    loop.driver.add(*READ, "first")
    before = loop.driver.dump()
    with pytest.raises(RingFull, match="Virtqueue is full: 3 descriptors needed, 1 of 4 free"):
        loop.driver.add(*READ, "second")
    assert loop.driver.dump() == before
    loop.driver.add([], [(0x2000, 1)], "third")
    assert loop.driver.free == 0
    assert loop.driver.tokens() == ["first", "third"]


@pytest.mark.parametrize("size", [32767, 32768])
def test_the_largest_queues_take_as_many_chains_and_one_chain_of_as_many_parts(size: int) -> None:
    loop = PackedLoopback(size)
    for token in range(size):
        loop.driver.add([(0x1000, 1)], [], token)
    assert loop.driver.publish() == size
    assert loop.device.serve(size, 10**9) == size
    assert [loop.driver.pop() for _ in range(size)] == [(token, 0) for token in range(size)]
    loop.driver.add([(0x1000, 1)] * (size - 1), [(0x1000, 1)], "long")
    loop.driver.publish()
    chain = loop.device.fetch()
    assert chain is not None
    assert (len(chain.readable), len(chain.writable)) == (size - 1, 1)
    assert loop.guards_intact()


@pytest.mark.parametrize(
    ("readable", "writable", "says"),
    [
        ([], [], "empty"),
        ([(0x1000, 1)] * 5, [(0x1000, 1)] * 4, "more parts"),
        ([(0x1000, 0)], [], "length 0"),
        ([(0x1000, 0xFFFFFFFF)], [(0x1000, 2)], r"over 2\*\*32"),
        ([(0x1000,)], [], "give"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused_and_changes_nothing(readable: Any, writable: Any, says: str) -> None:
    loop = PackedLoopback(8)
    before = loop.driver.dump()
    with pytest.raises(RingUsageError, match=says):
        loop.driver.add(readable, writable, "token")
    assert loop.driver.dump() == before
    assert loop.driver.publish() == 0
    assert not any(loop.view("desc"))


# --- Lifetime ---


def test_a_popped_token_is_not_kept_alive() -> None:
    loop = PackedLoopback(4)
    token = Token()
    watch = weakref.ref(token)
    loop.driver.add([(0x1000, 1)], [], token)
    loop.driver.publish()
    fetch_and_complete(loop)
    loop.driver.pop()
    del token
    assert watch() is None


def test_a_closed_ring_refuses_to_work_but_still_lists_its_tokens() -> None:
    loop = PackedLoopback(4)
    loop.driver.add([(0x1000, 1)], [], "left")
    loop.driver.close()
    loop.driver.close()
    for call in calls(loop.driver):
        with pytest.raises(RingUsageError, match="closed"):
            call()
    with pytest.raises(RingUsageError, match="closed"):
        loop.driver.reset()
    assert loop.driver.tokens() == ["left"]
    assert loop.driver.dump()["shared"] is None
    assert (loop.driver.size, loop.driver.free, loop.driver.outstanding) == (4, 3, 1)


def calls(ring: Ring) -> list[Any]:
    """Every method that touches the ring."""
    return [
        lambda: ring.add([(0x1000, 1)], [], None),
        ring.publish,
        ring.needs_notification,
        lambda: ring.notification_data(0),
        ring.pop,
        ring.can_pop,
        lambda: ring.wait(0, 0),
        lambda: ring.set_used_notifications(True),
    ]


def test_the_owner_lives_until_close() -> None:
    loop = PackedLoopback(4)
    owner = Token()
    watch = weakref.ref(owner)
    areas = [ctypes.addressof(ctypes.c_char.from_buffer(loop.view(area))) for area in ("desc", "driver", "device")]
    ring = PackedRing(4, *areas, owner=owner)
    del owner
    assert watch() is not None
    ring.close()
    assert watch() is None


def test_wait_ends_at_its_deadline_and_sees_a_completion() -> None:
    loop = PackedLoopback(3)
    loop.driver.add([(0x1000, 1)], [], "token")
    loop.driver.publish()
    assert loop.driver.wait(10**6, 0) is False
    fetch_and_complete(loop)
    assert loop.driver.wait(10**9, 0) is True


def test_dump_shows_the_private_side_next_to_the_shared_one() -> None:
    loop = PackedLoopback(3)
    loop.driver.add([(0x1000, 16)], [(0x2000, 512)], "first")
    loop.driver.publish()
    loop.driver.add([(0x3000, 1)], [], "second")
    dump = loop.driver.dump()
    assert (dump["format"], dump["free"], dump["broken"]) == ("packed", 0, None)
    assert (dump["next_avail"], dump["next_published"], dump["next_used"]) == ((0, 0), (2, 1), (0, 1))
    assert dump["shared"]["at_next_used"] == (0x1000, 16, 0, AVAIL | 1)
    assert dump["shared"]["at_next_published"] == (0x3000, 1, 2, 0)
    assert [(chain["token"], chain["published"]) for chain in dump["outstanding"]] == [
        ("first", True),
        ("second", False),
    ]
    assert [part["address"] for part in dump["outstanding"][0]["descriptors"]] == [0x1000, 0x2000]


# --- A queue that is reset and enabled again ---


def test_after_a_reset_everything_begins_anew_and_what_was_outstanding_is_handed_back() -> None:
    loop = PackedLoopback(3, event_idx=True)
    for token in range(4):
        loop.driver.add([(0x1000, 1)], [], token)
        loop.driver.publish()
        fetch_and_complete(loop)
        loop.driver.pop()
    loop.driver.add([(0x1000, 1)], [], "published")
    loop.driver.publish()
    loop.driver.add([(0x1000, 1)], [], "added")
    assert loop.driver.reset() == ["published", "added"]
    assert not any(loop.view("desc"))
    assert (loop.driver.free, loop.driver.outstanding, loop.driver.tokens()) == (3, 0, [])
    assert loop.driver.pop() is None
    fresh = PackedLoopback(3, event_idx=True)
    assert loop.driver.dump() == fresh.driver.dump()
    assert bytes(loop.view("driver")) == bytes(fresh.view("driver"))


def test_a_reset_mends_a_broken_ring() -> None:
    loop = PackedLoopback(3)
    loop.driver.add([(0x1000, 1)], [], "token")
    loop.driver.publish()
    loop.device.put_used(0, 77, 0, AVAIL | USED)
    with pytest.raises(RingBroken):
        loop.driver.pop()
    assert loop.driver.reset() == ["token"]
    assert loop.driver.pop() is None
