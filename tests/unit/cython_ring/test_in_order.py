from __future__ import annotations

import struct
from typing import Any

import pytest

from cython_ring import DriverViolation, Loopback, PackedLoopback, RingBroken

READ = ([(0x1000, 16)], [(0x2000, 512), (0x3000, 1)])
Both = Loopback | PackedLoopback
both = pytest.mark.parametrize("make", [Loopback, PackedLoopback])
WRITE, AVAIL, USED = 2, 1 << 7, 1 << 15


def with_requests(make: Any, count: int, size: int = 16, **options: Any) -> tuple[Both, list[int]]:
    loop: Both = make(size, in_order=True, **options)
    heads = [loop.driver.add(*READ, token) for token in range(count)]
    loop.driver.publish()
    return loop, heads


def drain(loop: Both) -> list[tuple[Any, int]]:
    return list(iter(loop.driver.pop, None))


@both
def test_one_used_entry_completes_a_batch_and_the_skipped_count_as_written_completely(make: Any) -> None:
    loop, heads = with_requests(make, 4)
    for _ in range(3):
        loop.device.fetch()
    loop.device.complete(heads[2], 7)
    assert drain(loop) == [(0, 513), (1, 513), (2, 7)]
    assert loop.driver.tokens() == [3]
    loop.device.fetch()
    loop.device.complete(heads[3], 9)
    assert drain(loop) == [(3, 9)]


@both
def test_a_batch_of_which_some_were_popped_still_has_the_others(make: Any) -> None:
    loop, heads = with_requests(make, 3)
    for _ in heads:
        loop.device.fetch()
    loop.device.complete(heads[2], 0)
    assert loop.driver.pop() == (0, 513)
    assert loop.driver.can_pop()
    assert loop.driver.wait(0, 0)
    assert drain(loop) == [(1, 513), (2, 0)]
    assert not loop.driver.can_pop()
    assert loop.driver.free == 16


@both
def test_a_device_may_complete_one_by_one_all_the_same(make: Any) -> None:
    loop, heads = with_requests(make, 4)
    for token, head in enumerate(heads):
        loop.device.fetch()
        loop.device.complete(head, token)
    assert drain(loop) == [(token, token) for token in range(4)]


@pytest.mark.parametrize("size", [4, 5, 7, 8])
def test_batches_of_every_length_go_round_in_a_packed_ring(size: int) -> None:
    loop = PackedLoopback(size, in_order=True)
    expected = []
    for step in range(200):
        batch = step % size + 1
        heads = [loop.driver.add([], [(0x1000, 8)], (step, i)) for i in range(batch)]
        loop.driver.publish()
        for _ in heads:
            assert loop.device.fetch() is not None
        loop.device.complete(heads[-1], 3)
        expected = [((step, i), 8 if i < batch - 1 else 3) for i in range(batch)]
        assert drain(loop) == expected
    assert loop.guards_intact()


def test_the_used_entry_of_a_batch_is_where_its_first_chains_would_be() -> None:
    loop = Loopback(16, in_order=True)
    heads = [loop.driver.add(*READ, token) for token in range(5)]
    loop.driver.publish()
    for _ in heads:
        loop.device.fetch()
    loop.device.complete(heads[1], 1)
    loop.device.complete(heads[4], 2)
    used = loop.view("used")
    assert used.cast("B")[2:4].cast("H")[0] == 5
    assert struct.unpack_from("<II", used, 4) == (heads[1], 1)
    assert struct.unpack_from("<II", used, 4 + 8 * 2) == (heads[4], 2)


def test_chains_are_in_the_order_of_the_table_for_ever() -> None:
    """The strict device refuses a `next` that is not the following descriptor (2.7.5.2)."""
    loop = Loopback(8, in_order=True)
    for token in range(500):
        loop.driver.add([(0x1000, 1)] * (token % 3 + 1), [], token)
        loop.driver.publish()
        chain = loop.device.fetch()
        assert chain is not None
        loop.device.complete(chain.head, 0)
        assert loop.driver.pop() == (token, 0)


def test_a_next_that_is_not_the_following_descriptor_is_a_violation() -> None:
    loop = Loopback(4, in_order=True)
    loop.view("desc")[:16] = struct.pack("<QIHH", 0x1000, 1, 1, 2)
    loop.view("avail").cast("H")[1] = 1
    with pytest.raises(DriverViolation, match=r"2\.7\.5\.2"):
        loop.device.fetch()


# --- A device that lies ---


def test_a_split_entry_for_a_chain_that_used_idx_does_not_cover_breaks_the_ring() -> None:
    loop, heads = with_requests(Loopback, 4)
    assert isinstance(loop, Loopback)
    loop.device.put_used(0, heads[2], 0)
    loop.device.set_used_idx(2)
    with pytest.raises(RingBroken) as caught:
        loop.driver.pop()
    assert (caught.value.kind, caught.value.id) == ("used out of order", heads[2])
    assert loop.driver.tokens() == [0, 1, 2, 3]


@both
def test_the_same_batch_twice_breaks_the_ring(make: Any) -> None:
    loop, heads = with_requests(make, 4)
    if isinstance(loop, Loopback):
        for slot in (0, 2):
            loop.device.put_used(slot, heads[1], 0)
        loop.device.set_used_idx(4)
    else:
        for position in (0, 6):
            loop.device.put_used(position, heads[1], 0, AVAIL | USED)
    assert [loop.driver.pop(), loop.driver.pop()] == [(0, 513), (1, 0)]
    with pytest.raises(RingBroken, match="not outstanding"):
        loop.driver.pop()
    assert loop.driver.tokens() == [2, 3]


@both
def test_a_chain_that_was_not_published_ends_no_batch(make: Any) -> None:
    loop, _ = with_requests(make, 2)
    secret = loop.driver.add([(0x1000, 1)], [], "secret")
    if isinstance(loop, Loopback):
        loop.device.put_used(0, secret, 0)
        loop.device.set_used_idx(2)
    else:
        loop.device.put_used(0, secret, 0, AVAIL | USED)
    with pytest.raises(RingBroken, match="not outstanding"):
        loop.driver.pop()


@both
def test_the_length_of_the_last_of_a_batch_is_checked(make: Any) -> None:
    loop, heads = with_requests(make, 3)
    if isinstance(loop, Loopback):
        loop.device.put_used(0, heads[2], 514)
        loop.device.set_used_idx(3)
    else:
        loop.device.put_used(0, heads[2], 514, AVAIL | USED | WRITE)
    with pytest.raises(RingBroken, match="too long"):
        loop.driver.pop()
    assert loop.driver.tokens() == [0, 1, 2]
