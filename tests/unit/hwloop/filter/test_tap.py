"""Following a ring of either format from outside, with a device that writes nonsense into it."""

from __future__ import annotations

import ctypes

import pytest

from cython_ring import DeviceSidePacked, PackedRing, SplitRing, split_layout
from hwloop.filter.tap import PackedTap, RingLost, SplitTap

SIZE = 8


class Ring:
    def __init__(self, *, in_order: bool = False) -> None:
        layout = split_layout(SIZE)
        self.memory = ctypes.create_string_buffer(8192)
        base = ctypes.addressof(self.memory) + 4095 & -4096
        self.desc, self.avail = base, base + layout.avail_offset
        self.used = base + 2048
        self.driver = SplitRing(SIZE, self.desc, self.avail, self.used, owner=self.memory, in_order=in_order)
        self.tap = SplitTap(SIZE, self.desc, self.avail, self.used, lambda address: address, in_order=in_order)

    def put16(self, address: int, value: int) -> None:
        ctypes.c_uint16.from_address(address).value = value


def test_a_chain_is_seen_once_it_is_published() -> None:
    ring = Ring()
    ring.driver.add([(0x1000, 16)], [(0x2000, 512), (0x3000, 1)], "token")
    assert ring.tap.new_chains() == []
    ring.driver.publish()
    (chain,) = ring.tap.new_chains()
    assert chain.readable == ((0x1000, 16),)
    assert chain.writable == ((0x2000, 512), (0x3000, 1))
    assert ring.tap.new_chains() == []


def test_indices_go_round() -> None:
    ring = Ring()
    for number in range(70_000):
        ring.driver.add([(0x1000, 16)], [], None)
        ring.driver.publish()
        (chain,) = ring.tap.new_chains()
        at = ring.used + 4 + 8 * (number % SIZE)
        ctypes.c_uint32.from_address(at).value = chain.head
        ring.put16(ring.used + 2, number + 1 & 0xFFFF)
        assert ring.tap.new_used() == [(chain.head, 0)]
        assert ring.driver.pop() is not None


def test_a_used_index_that_jumps_is_not_followed() -> None:
    ring = Ring()
    ring.put16(ring.used + 2, SIZE + 1)
    with pytest.raises(RingLost, match="used index jumped by 9"):
        ring.tap.new_used()


def test_an_available_index_that_jumps_is_not_followed() -> None:
    ring = Ring()
    ring.put16(ring.avail + 2, 0x8000)
    with pytest.raises(RingLost, match="available index jumped"):
        ring.tap.new_chains()


def test_a_chain_without_an_end_is_given_up() -> None:
    ring = Ring()
    ring.driver.add([(0x1000, 16)], [(0x2000, 1)], None)
    ring.put16(ring.desc + 16 + 12, 1)
    ring.put16(ring.desc + 16 + 14, 0)
    ring.driver.publish()
    with pytest.raises(RingLost, match="no end"):
        ring.tap.new_chains()


def test_a_descriptor_outside_of_the_table() -> None:
    ring = Ring()
    ring.driver.add([(0x1000, 16)], [(0x2000, 1)], None)
    ring.put16(ring.desc + 14, SIZE)
    ring.driver.publish()
    with pytest.raises(RingLost, match="descriptor 8 is none of 8"):
        ring.tap.new_chains()


def test_a_used_element_stands_for_those_before_it_where_order_was_agreed() -> None:
    ring = Ring(in_order=True)
    heads = [ring.driver.add([(0x1000, 16)], [(0x2000, 512)], None) for _ in range(3)]
    ring.driver.publish()
    ring.tap.new_chains()
    ctypes.c_uint32.from_address(ring.used + 4).value = heads[2]
    ring.put16(ring.used + 2, 3)
    assert ring.tap.new_used() == [(heads[0], 512), (heads[1], 512), (heads[2], 0)]
    assert ring.tap.unread == 3


def test_a_used_index_that_ends_in_the_middle_of_a_batch_is_not_followed() -> None:
    ring = Ring(in_order=True)
    heads = [ring.driver.add([(0x1000, 16)], [], None) for _ in range(3)]
    ring.driver.publish()
    ring.tap.new_chains()
    ctypes.c_uint32.from_address(ring.used + 4).value = heads[2]
    ring.put16(ring.used + 2, 2)
    with pytest.raises(RingLost, match="used index moved by 2"):
        ring.tap.new_used()


# --- Packed rings -----------------------------------------------------------------------------------------------------


class Packed:
    """Both sides of a packed ring, and somebody who listens."""

    def __init__(self, *, in_order: bool = False, size: int = SIZE) -> None:
        self.memory = ctypes.create_string_buffer(8192)
        base = ctypes.addressof(self.memory) + 4095 & -4096
        places = (size, base, base + 2048, base + 2056)
        self.driver = PackedRing(*places, owner=self.memory, in_order=in_order)
        self.device = DeviceSidePacked(*places, owner=self.memory, in_order=in_order, translate=lambda at, *_: at)
        self.tap = PackedTap(size, base, lambda address: address, lambda: self.driver, in_order=in_order)

    def add(self, *lengths: int) -> int:
        """One readable part and writable ones of these lengths, published."""
        head = self.driver.add([(0x1000, 16)], [(0x2000, length) for length in lengths], "token")
        self.driver.publish()
        return head

    def serve(self, head: int, written: int) -> None:
        while self.device.fetch() is not None:
            pass
        self.device.complete(head, written)


def test_a_chain_of_a_packed_ring_is_seen_once_it_is_published() -> None:
    ring = Packed()
    ring.driver.add([(0x1000, 16)], [(0x2000, 512), (0x3000, 1)], "token")
    assert ring.tap.new_chains() == []
    ring.driver.publish()
    (chain,) = ring.tap.new_chains()
    assert (chain.readable, chain.writable) == (((0x1000, 16),), ((0x2000, 512), (0x3000, 1)))
    assert ring.tap.new_chains() == []


def test_what_the_device_has_written_over_before_we_looked_is_seen_all_the_same() -> None:
    ring = Packed()
    one, other = ring.add(512), ring.add(1024)
    ring.serve(other, 1024)
    assert [chain.writable for chain in ring.tap.new_chains()] == [((0x2000, 512),), ((0x2000, 1024),)]
    assert ring.tap.new_used() == [(other, 1024)]
    ring.serve(one, 512)
    assert ring.tap.new_used() == [(one, 512)]
    assert ring.tap.unread == 2


@pytest.mark.parametrize("size", [SIZE, 7])
def test_a_packed_ring_goes_round(size: int) -> None:
    ring = Packed(size=size)
    for number in range(1000):
        heads = [ring.add(*[512] * (number % 3)), ring.add(512)]
        assert [chain.head for chain in ring.tap.new_chains()] == heads
        for head in reversed(heads):
            ring.serve(head, 0)
        assert [head for head, _ in ring.tap.new_used()] == heads[::-1]
        assert [ring.driver.pop() for _ in range(3)] == [("token", 0), ("token", 0), None]


def test_what_was_used_between_the_two_looks_of_one_is_for_the_next() -> None:
    ring = Packed()
    assert ring.tap.new_chains() == []
    head = ring.add(512)
    ring.serve(head, 5)
    assert ring.tap.new_used() == []
    assert [chain.head for chain in ring.tap.new_chains()] == [head]
    assert ring.tap.new_used() == [(head, 5)]


def test_requests_that_nobody_saw_are_not_passed_over_in_silence() -> None:
    ring = Packed()
    for _ in range(2):
        ring.serve(ring.add(512), 0)
        ring.driver.pop()
    ring.add(512)
    with pytest.raises(RingLost, match="2 requests came and went"):
        ring.tap.new_chains()


def test_a_used_buffer_that_the_device_has_not() -> None:
    ring = Packed()
    ring.add(512)
    ring.tap.new_chains()
    ring.device.put_used(0, 5, 0, 1 << 7 | 1 << 15)
    with pytest.raises(RingLost, match="buffer 5 is used, which the device has not"):
        ring.tap.new_used()


def test_one_used_descriptor_stands_for_those_before_it_where_order_was_agreed() -> None:
    ring = Packed(in_order=True)
    heads = [ring.add(512), ring.add(512, 1), ring.add(1)]
    ring.tap.new_chains()
    ring.device.put_used(0, heads[2], 1, 1 << 7 | 1 << 15 | 2)
    assert ring.tap.new_used() == [(heads[0], 512), (heads[1], 513), (heads[2], 1)]
    assert [ring.driver.pop() for _ in range(3)] == [("token", 512), ("token", 513), ("token", 1)]


def test_without_a_driver_there_is_nothing_to_see() -> None:
    ring = Packed()
    tap = PackedTap(SIZE, ctypes.addressof(ring.memory) + 4095 & -4096, lambda at: at, lambda: None, in_order=False)
    ring.add(512)
    assert tap.new_chains() == []
