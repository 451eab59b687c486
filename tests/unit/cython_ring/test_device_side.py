from __future__ import annotations

import ctypes
import struct

import pytest

from cython_ring import DeviceSideSplit, DriverViolation, Loopback, RingUsageError

NEXT, WRITE, INDIRECT = 1, 2, 4


def make_available(loop: Loopback, *descriptors: tuple[int, int, int, int], head: int = 0, idx: int = 1) -> None:
    """What a bad driver writes: (address, length, flags, next) from descriptor 0 on, one entry, and an index."""
    loop.view("desc")[: 16 * len(descriptors)] = b"".join(struct.pack("<QIHH", *each) for each in descriptors)
    avail = loop.view("avail").cast("H")
    avail[2] = head
    avail[1] = idx


def violation(loop: Loopback) -> DriverViolation:
    with pytest.raises(DriverViolation) as caught:
        loop.device.fetch()
    return caught.value


def test_an_honest_chain_passes() -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 16, NEXT, 1), (0x2000, 512, WRITE, 0))
    chain = loop.device.fetch()
    assert chain is not None
    assert (chain.readable, chain.writable) == ([(0x1000, 16)], [(0x2000, 512)])


def test_a_readable_part_after_a_writable_one_is_a_violation() -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 16, NEXT | WRITE, 1), (0x2000, 512, 0, 0))
    assert "2.7.4.2" in violation(loop).rule


@pytest.mark.parametrize("links", [(0,), (1, 0), (1, 1), (1, 2, 3, 0)])
def test_a_loop_is_a_violation(links: tuple[int, ...]) -> None:
    loop = Loopback(4)
    make_available(loop, *[(0x1000, 16, NEXT, link) for link in links])
    assert "loop" in violation(loop).rule


@pytest.mark.parametrize("link", [4, 5, 0xFFFF])
def test_a_next_out_of_range_is_a_violation(link: int) -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 16, NEXT, link))
    error = violation(loop)
    assert error.rule.startswith("next is an index")
    assert error.value == link


@pytest.mark.parametrize("head", [4, 0xFFFF])
def test_a_head_out_of_range_is_a_violation(head: int) -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 16, 0, 0), head=head)
    assert violation(loop).rule.startswith("an available entry is an index")


def test_a_zero_length_is_a_violation() -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 0, 0, 0))
    assert "length 0" in violation(loop).rule


@pytest.mark.parametrize("flags", [INDIRECT, 8, 0x8000])
def test_flags_that_were_not_negotiated_are_a_violation(flags: int) -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 16, flags, 0))
    error = violation(loop)
    assert "NEXT and WRITE" in error.rule
    assert error.value == flags


def test_a_chain_over_4_gib_is_a_violation() -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 0xFFFFFFFF, NEXT, 1), (0x1000, 2, 0, 0))
    assert "2**32" in violation(loop).rule


@pytest.mark.parametrize("idx", [5, 0x8000, 0xFFFF])
def test_an_available_index_that_jumps_or_goes_back_is_a_violation(idx: int) -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 16, 0, 0), idx=idx)
    error = violation(loop)
    assert error.rule.startswith("avail.idx")
    assert error.value == idx


def test_an_available_index_counts_the_chains_that_the_device_still_holds() -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 16, 0, 0))
    assert loop.device.fetch() is not None
    make_available(loop, (0x1000, 16, 0, 0), idx=5)
    assert violation(loop).rule.startswith("avail.idx")


def test_a_descriptor_that_the_device_holds_may_not_be_made_available_again() -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 16, NEXT, 1), (0x2000, 16, 0, 0))
    chain = loop.device.fetch()
    assert chain is not None
    loop.view("avail").cast("H")[3] = 1
    loop.view("avail").cast("H")[1] = 2
    assert "still holds" in violation(loop).rule
    loop.device.complete(chain.head, 0)
    assert loop.device.fetch() is not None


@pytest.mark.parametrize(("event_idx", "flags"), [(False, 2), (False, 0xFFFF), (True, 1)])
def test_available_flags_that_mean_nothing_are_a_violation(event_idx: bool, flags: int) -> None:
    loop = Loopback(4, event_idx=event_idx)
    loop.view("avail").cast("H")[0] = flags
    assert violation(loop).rule.startswith("avail.flags")


def test_a_violation_takes_nothing_from_the_ring() -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 0, 0, 0))
    violation(loop)
    assert loop.device.available() == 1
    make_available(loop, (0x1000, 1, 0, 0))
    assert loop.device.fetch() is not None


def test_serve_stops_at_a_violation() -> None:
    loop = Loopback(4)
    make_available(loop, (0x1000, 0, 0, 0))
    with pytest.raises(DriverViolation, match="length 0"):
        loop.device.serve(1, 10**9)


def test_serve_gives_up_at_its_deadline() -> None:
    loop = Loopback(4)
    assert loop.device.serve(1, 10**7) == 0


@pytest.mark.parametrize("head", [0, 3, 4, 0xFFFFFFFF])
def test_completing_what_was_not_fetched_is_the_tests_own_mistake(head: int) -> None:
    loop = Loopback(4)
    with pytest.raises(RingUsageError, match="not with the device"):
        loop.device.complete(head, 0)


def test_a_chain_reads_and_writes_its_bytes_across_its_parts() -> None:
    memory = (ctypes.c_ubyte * 64)(*range(64))
    base = ctypes.addressof(memory)
    loop = Loopback(8)
    loop.driver.add([(base, 3), (base + 10, 2)], [(base + 32, 4), (base + 48, 4)], None)
    loop.driver.publish()
    chain = loop.device.fetch()
    assert chain is not None
    assert chain.read() == bytes([0, 1, 2, 10, 11])
    assert (chain.readable_bytes, chain.writable_bytes) == (5, 8)
    assert chain.write(b"abcdef", 1) == 6
    assert bytes(memory[31:37]) == b"\x1f\x20abc\x24"
    assert bytes(memory[47:53]) == b"\x2fdef\x33\x34"


@pytest.mark.parametrize(("data", "offset"), [(b"123456789", 0), (b"12", 7), (b"", 9), (b"1", -1)])
def test_a_write_that_does_not_fit_is_refused_and_stores_nothing(data: bytes, offset: int) -> None:
    memory = (ctypes.c_ubyte * 8)()
    loop = Loopback(8)
    loop.driver.add([], [(ctypes.addressof(memory), 8)], None)
    loop.driver.publish()
    chain = loop.device.fetch()
    assert chain is not None
    with pytest.raises(RingUsageError, match="do not fit"):
        chain.write(data, offset)
    assert bytes(memory) == bytes(8)


def test_device_addresses_go_through_translate() -> None:
    memory = (ctypes.c_ubyte * 8)(*b"question")
    asked: list[tuple[int, int, bool]] = []

    def translate(address: int, length: int, writable: bool) -> int:
        asked.append((address, length, writable))
        return ctypes.addressof(memory) + address - 0xDEAD0000

    loop = Loopback(8, translate=translate)
    loop.driver.add([(0xDEAD0000, 4)], [(0xDEAD0004, 4)], None)
    loop.driver.publish()
    chain = loop.device.fetch()
    assert chain is not None
    assert chain.read() == b"ques"
    chain.write(b"!!")
    assert bytes(memory) == b"ques!!on"
    assert asked == [(0xDEAD0000, 4, False), (0xDEAD0004, 4, True)]


def test_what_translate_raises_reaches_the_test() -> None:
    def translate(address: int, length: int, writable: bool) -> int:
        raise LookupError(hex(address))

    loop = Loopback(8, translate=translate)
    loop.driver.add([(0xDEAD0000, 4)], [], None)
    loop.driver.publish()
    chain = loop.device.fetch()
    assert chain is not None
    with pytest.raises(LookupError, match="0xdead0000"):
        chain.read()


def test_with_event_idx_a_device_that_found_nothing_asks_to_be_notified_of_the_next_chain() -> None:
    loop = Loopback(8, event_idx=True)
    for _ in range(3):
        loop.driver.add([(0x1000, 1)], [], None)
        loop.driver.publish()
        assert loop.driver.needs_notification()
        assert loop.device.fetch() is not None
        assert loop.device.fetch() is None


def test_guards_notice_a_byte_outside_the_areas() -> None:
    loop = Loopback(8)
    assert loop.guards_intact()
    loop.memory[len(loop.memory) - 1] = 0
    assert not loop.guards_intact()


# --- A device that goes on with the work of one before it -------------------------------------------------------------


def going_on(loop: Loopback, size: int, first_index: int) -> DeviceSideSplit:
    areas = [loop.view(name) for name in ("desc", "avail", "used")]
    addresses = [ctypes.addressof(ctypes.c_char.from_buffer(area)) for area in areas]
    return DeviceSideSplit(size, *addresses, first_index=first_index, owner=areas)


def test_chains_that_one_before_it_had_are_taken_again_and_the_others_are_fetched() -> None:
    loop = Loopback(8)
    heads = [loop.driver.add([(0x1000 * n, 16)], [], n) for n in range(1, 4)]
    loop.driver.publish()
    for _ in heads[:2]:
        assert loop.device.fetch() is not None
    loop.device.complete(heads[1], 0)
    next_one = going_on(loop, 8, 1)
    assert next_one.take_again(heads[0]).readable == [(0x1000, 16)]
    chain = next_one.fetch()
    assert chain is not None
    assert chain.head == heads[2]
    assert next_one.fetch() is None
    for head in (heads[2], heads[0]):
        next_one.complete(head, 0)
    assert [loop.driver.pop() for _ in range(4)] == [(2, 0), (3, 0), (1, 0), None]


def test_a_chain_is_taken_again_once_and_only_one_that_there_can_be() -> None:
    loop = Loopback(4)
    head = loop.driver.add([(0x1000, 16)], [], 1)
    loop.driver.publish()
    device = going_on(loop, 4, 0)
    device.take_again(head)
    for wrong in (head, 4, 1 << 31):
        with pytest.raises(RingUsageError, match="cannot be taken again"):
            device.take_again(wrong)
