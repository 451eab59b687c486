from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import pytest

from cython_ring import Loopback, RingBroken, RingFull, RingUsageError, SplitRing

READ = ([(0x1000, 16)], [(0x2000, 512), (0x3000, 1)])


class Token:
    """Something that a weak reference can watch."""


def fetch_and_complete(loop: Loopback, written: int = 0) -> None:
    chain = loop.device.fetch()
    assert chain is not None
    loop.device.complete(chain.head, written)


# --- One request ---


def test_the_device_sees_the_parts_in_order_readable_ones_first() -> None:
    loop = Loopback(8)
    head = loop.driver.add([(0x1000, 16), (0x1100, 4096)], [(0x2000, 512), (0x3000, 1)], "token")
    loop.driver.publish()
    chain = loop.device.fetch()
    assert chain is not None
    assert chain.head == head
    assert chain.readable == [(0x1000, 16), (0x1100, 4096)]
    assert chain.writable == [(0x2000, 512), (0x3000, 1)]


def test_nothing_is_visible_before_publish() -> None:
    loop = Loopback(8)
    loop.driver.add(*READ, "token")
    assert loop.device.available() == 0
    assert loop.device.fetch() is None
    assert loop.view("avail").cast("H")[1] == 0


def test_publish_makes_a_batch_visible_and_returns_its_size() -> None:
    loop = Loopback(8)
    for _ in range(2):
        loop.driver.add(*READ, None)
    assert loop.driver.publish() == 2
    assert loop.device.available() == 2
    assert loop.driver.publish() == 0


def test_a_completion_brings_back_the_token_and_the_bytes_written() -> None:
    loop = Loopback(8)
    token = Token()
    loop.driver.add(*READ, token)
    loop.driver.publish()
    assert loop.driver.pop() is None
    fetch_and_complete(loop, 513)
    assert loop.driver.can_pop()
    assert loop.driver.pop() == (token, 513)
    assert loop.driver.pop() is None
    assert not loop.driver.can_pop()


def test_none_is_a_token_like_any_other() -> None:
    loop = Loopback(2)
    loop.driver.add([(0x1000, 1)], [], None)
    loop.driver.publish()
    fetch_and_complete(loop)
    assert loop.driver.pop() == (None, 0)


def test_completions_come_in_the_order_of_the_device() -> None:
    loop = Loopback(8)
    for token in "ab":
        loop.driver.add(*READ, token)
    loop.driver.publish()
    chains = [loop.device.fetch(), loop.device.fetch()]
    for chain in reversed(chains):
        assert chain is not None
        loop.device.complete(chain.head, 1)
    assert [loop.driver.pop(), loop.driver.pop()] == [("b", 1), ("a", 1)]


@pytest.mark.parametrize("platform_order", [False, True])
@pytest.mark.parametrize("event_idx", [False, True])
def test_rings_of_every_flavour_go_round_many_times(event_idx: bool, platform_order: bool) -> None:
    loop = Loopback(4, event_idx=event_idx, platform_order=platform_order)
    for token in range(1000):
        loop.driver.add(*READ, token)
        loop.driver.publish()
        fetch_and_complete(loop, token % 514)
        assert loop.driver.pop() == (token, token % 514)
    assert loop.driver.free == 4


def test_the_indices_wrap_at_65536() -> None:
    loop = Loopback(8, first_index=65533)
    for token in range(6):
        loop.driver.add(*READ, token)
        loop.driver.publish()
        fetch_and_complete(loop)
        assert loop.driver.pop() == (token, 0)
    assert loop.driver.dump()["shared"]["avail_idx"] == 3


def test_a_chain_that_is_outstanding_for_more_than_65536_others_is_still_known() -> None:
    loop = Loopback(8)
    slow = loop.driver.add([(0x1000, 1)], [], "slow")
    loop.driver.publish()
    assert loop.device.fetch() is not None
    for _ in range(70000):
        loop.driver.add([(0x1000, 1)], [], "fast")
        loop.driver.publish()
        loop.device.serve(1, 0)
        assert loop.driver.pop() == ("fast", 0)
    loop.driver.add([(0x1000, 1)], [], "not published")
    loop.device.complete(slow, 0)
    assert loop.driver.pop() == ("slow", 0)


# --- Room ---


def test_a_full_ring_refuses_a_chain_and_changes_nothing() -> None:
    loop = Loopback(4)
    loop.driver.add(*READ, "first")
    before = loop.driver.dump()
    with pytest.raises(RingFull, match="Virtqueue is full: 3 descriptors needed, 1 of 4 free"):
        loop.driver.add(*READ, "second")
    assert loop.driver.dump() == before
    loop.driver.add([], [(0x2000, 1)], "third")
    assert loop.driver.free == 0
    assert loop.driver.tokens() == ["first", "third"]


def test_a_queue_of_one_descriptor_works() -> None:
    loop = Loopback(1)
    for token in range(3):
        loop.driver.add([(0x1000, 1)], [], token)
        with pytest.raises(RingFull):
            loop.driver.add([(0x1000, 1)], [], token)
        loop.driver.publish()
        fetch_and_complete(loop)
        assert loop.driver.pop() == (token, 0)


def test_a_queue_of_32768_takes_32768_chains_and_one_chain_of_32768_parts() -> None:
    loop = Loopback(32768)
    for token in range(32768):
        loop.driver.add([(0x1000, 1)], [], token)
    assert loop.driver.publish() == 32768
    assert loop.device.serve(32768, 10**9) == 32768
    assert [loop.driver.pop() for _ in range(32768)] == [(token, 0) for token in range(32768)]
    loop.driver.add([(0x1000, 1)] * 32767, [(0x1000, 1)], "long")
    loop.driver.publish()
    chain = loop.device.fetch()
    assert chain is not None
    assert (len(chain.readable), len(chain.writable)) == (32767, 1)
    assert loop.guards_intact()


# --- The caller's mistakes ---


@pytest.mark.parametrize(
    ("readable", "writable", "says"),
    [
        ([], [], "empty"),
        ([(0x1000, 1)] * 5, [(0x1000, 1)] * 4, "more parts"),
        ([(0x1000, 0)], [], "length 0"),
        ([], [(0x1000, 0)], "length 0"),
        ([(0x1000, 1 << 32)], [], "length 4294967296"),
        ([(0x1000, 0xFFFFFFFF)], [(0x1000, 2)], r"over 2\*\*32"),
        ([(0xFFFFFFFFFFFFFFFF, 2)], [], "end of the address space"),
        ([(-1, 16)], [], "give"),
        ([(1 << 64, 16)], [], "give"),
        ([(0x1000, -1)], [], "give"),
        ([(0x1000, 1 << 64)], [], "give"),
        ([(0x1000,)], [], "give"),
        ([(0x1000, 1, 2)], [], "give"),
        ([("0x1000", 1)], [], "give"),
        ([0x1000], [], "give"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused_and_changes_nothing(readable: Any, writable: Any, says: str) -> None:
    loop = Loopback(8)
    before = loop.driver.dump()
    with pytest.raises(RingUsageError, match=says):
        loop.driver.add(readable, writable, "token")
    assert loop.driver.dump() == before
    assert loop.driver.publish() == 0
    assert not any(loop.view("desc"))


def test_a_chain_of_exactly_4_gib_is_taken() -> None:
    loop = Loopback(2)
    loop.driver.add([(0x1000, 0xFFFFFFFF)], [(0x1000, 1)], None)
    assert loop.driver.outstanding == 1


def test_a_last_byte_at_the_end_of_the_address_space_is_taken() -> None:
    loop = Loopback(2)
    loop.driver.add([(0xFFFFFFFFFFFFF000, 0x1000)], [], None)
    assert loop.driver.outstanding == 1


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_a_size_that_no_ring_has_is_refused(size: int) -> None:
    with pytest.raises(RingUsageError, match="power of two"):
        SplitRing(size, 0x1000, 0x2000, 0x3000)


@pytest.mark.parametrize(
    ("desc", "avail", "used", "says"),
    [
        (0x1008, 0x2000, 0x3000, "descriptor table at 0x1008 is not aligned to 16"),
        (0x1000, 0x2001, 0x3000, "available ring at 0x2001 is not aligned to 2"),
        (0x1000, 0x2000, 0x3002, "used ring at 0x3002 is not aligned to 4"),
        (0, 0x2000, 0x3000, "descriptor table at 0x0"),
        (0x1000, 0x2000, -4, "used ring at -0x4"),
        (0x1000, 1 << 64, 0x3000, "available ring"),
    ],
)
def test_areas_that_are_misaligned_are_refused_before_anything_is_written(
    desc: int, avail: int, used: int, says: str
) -> None:
    with pytest.raises(RingUsageError, match=says):
        SplitRing(8, desc, avail, used)


def test_parts_whose_own_code_uses_the_ring_are_noticed() -> None:
    loop = Loopback(8)

    class Sneaky(list[tuple[int, int]]):
        def __iter__(self) -> Any:
            loop.driver.pop()
            return super().__iter__()

    with pytest.raises(RingUsageError, match="two threads"):
        loop.driver.add(Sneaky([(0x1000, 1)]), [], None)
    loop.driver.add([(0x1000, 1)], [], None)


# --- Tokens and lifetime ---


def test_tokens_are_listed_oldest_first_whatever_their_heads() -> None:
    loop = Loopback(4)
    for token in "abcd":
        loop.driver.add([(0x1000, 1)], [], token)
    loop.driver.publish()
    fetch_and_complete(loop)
    fetch_and_complete(loop)
    loop.driver.pop()
    loop.driver.pop()
    loop.driver.add([(0x1000, 1)], [], "e")
    assert loop.driver.tokens() == ["c", "d", "e"]
    assert loop.driver.outstanding == 3


def test_a_popped_token_is_not_kept_alive() -> None:
    loop = Loopback(4)
    token = Token()
    watch = weakref.ref(token)
    loop.driver.add([(0x1000, 1)], [], token)
    del token
    assert watch() is not None
    loop.driver.publish()
    fetch_and_complete(loop)
    loop.driver.pop()
    assert watch() is None


def test_a_ring_that_its_own_token_refers_to_is_collected() -> None:
    loop = Loopback(4)
    token: Any = Token()
    token.ring = loop.driver
    watch = weakref.ref(token)
    loop.driver.add([(0x1000, 1)], [], token)
    del token, loop
    gc.collect()
    assert watch() is None


def test_the_owner_lives_until_close() -> None:
    loop = Loopback(4)
    owner = Token()
    watch = weakref.ref(owner)
    ring = SplitRing(4, *_addresses(loop), owner=owner)
    del owner
    assert watch() is not None
    ring.close()
    assert watch() is None


def test_a_closed_ring_refuses_to_work_but_still_lists_its_tokens() -> None:
    loop = Loopback(4)
    loop.driver.add([(0x1000, 1)], [], "left")
    loop.driver.close()
    loop.driver.close()
    for call in calls(loop.driver):
        with pytest.raises(RingUsageError, match="closed"):
            call()
    assert loop.driver.tokens() == ["left"]
    assert loop.driver.dump()["shared"] is None
    assert (loop.driver.size, loop.driver.free, loop.driver.outstanding) == (4, 3, 1)


def calls(ring: SplitRing) -> list[Any]:
    """Every method that touches the ring."""
    return [
        lambda: ring.add([(0x1000, 1)], [], None),
        ring.publish,
        ring.needs_notification,
        ring.pop,
        ring.can_pop,
        lambda: ring.wait(0, 0),
        lambda: ring.set_used_notifications(True),
    ]


def _addresses(loop: Loopback) -> list[int]:
    return [ctypes.addressof(ctypes.c_char.from_buffer(loop.view(area))) for area in ("desc", "avail", "used")]


# --- What a human sees ---


def test_dump_shows_the_private_side_next_to_the_shared_one() -> None:
    loop = Loopback(4)
    loop.driver.add([(0x1000, 16)], [(0x2000, 512)], "first")
    loop.driver.publish()
    loop.driver.add([(0x3000, 1)], [], "second")
    loop.device.put_used(0, 0, 77)
    loop.device.set_used_idx(1)
    loop.view("desc").cast("Q")[0] = 0xDEAD
    dump = loop.driver.dump()
    assert (dump["added_idx"], dump["published_idx"], dump["popped_idx"], dump["free"]) == (2, 1, 0, 1)
    assert dump["shared"]["used_waiting"] == [(0, 77)]
    first, second = dump["outstanding"]
    assert (first["token"], first["published"], second["token"], second["published"]) == (
        "first",
        True,
        "second",
        False,
    )
    assert first["descriptors"][0] == {
        "index": 0,
        "address": 0x1000,
        "length": 16,
        "writable": False,
        "indirect": False,
        "shared": (0xDEAD, 16, 1, 1),
    }
    assert first["descriptors"][1]["shared"] == (0x2000, 512, 2, 0)


# --- A queue that is reset and enabled again ---


def test_after_a_reset_everything_begins_anew_and_what_was_outstanding_is_handed_back() -> None:
    loop = Loopback(4, first_index=77, event_idx=True)
    loop.driver.add([(0x1000, 1)], [], "published")
    loop.driver.publish()
    loop.device.put_used(77, 99, 0)
    loop.device.set_used_idx(78)
    loop.driver.set_used_notifications(False)
    with pytest.raises(RingBroken):
        loop.driver.pop()
    assert loop.driver.reset() == ["published"]
    loop.renew_device()
    assert (loop.driver.free, loop.driver.outstanding, loop.driver.tokens()) == (4, 0, [])
    dump = loop.driver.dump()
    assert (dump["broken"], dump["used_notifications"]) == (None, False)
    assert dump["shared"]["used_event"] == 0x8000
    for token in range(9):
        loop.driver.add([(0x1000, 1)], [], token)
        loop.driver.publish()
        fetch_and_complete(loop)
        assert loop.driver.pop() == (token, 0)


def test_a_reset_of_a_closed_ring_is_refused() -> None:
    loop = Loopback(4)
    loop.driver.close()
    with pytest.raises(RingUsageError, match="closed"):
        loop.driver.reset()


def test_an_available_entry_is_stored_only_where_it_differs() -> None:
    loop = Loopback(4)
    for _ in range(2):
        for token in range(4):
            loop.driver.add([(0x1000, 1)], [], token)
        loop.driver.publish()
        for _ in range(4):
            fetch_and_complete(loop)
            loop.driver.pop()
    avail = loop.view("avail").cast("H")
    assert list(avail[2:6]) == [0, 1, 2, 3]
    avail[2] = 77
    loop.driver.add([(0x1000, 1)], [], None)
    assert avail[2] == 77
