"""Following a split ring from outside, with a device that writes nonsense into it."""

from __future__ import annotations

import ctypes

import pytest

from cython_ring import SplitRing, split_layout
from hwloop.filter.tap import RingLost, SplitTap

SIZE = 8


class Ring:
    def __init__(self) -> None:
        layout = split_layout(SIZE)
        self.memory = ctypes.create_string_buffer(8192)
        base = ctypes.addressof(self.memory) + 4095 & -4096
        self.desc, self.avail = base, base + layout.avail_offset
        self.used = base + 2048
        self.driver = SplitRing(SIZE, self.desc, self.avail, self.used, owner=self.memory)
        self.tap = SplitTap(SIZE, self.desc, self.avail, self.used, lambda address: address)

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
