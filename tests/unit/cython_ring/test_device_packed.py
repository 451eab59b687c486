from __future__ import annotations

import ctypes
import struct

import pytest

from cython_ring import DriverViolation, PackedLoopback, RingUsageError

NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15


def make_available(loop: PackedLoopback, *descriptors: tuple[int, int, int, int], at: int = 0) -> None:
    """What a bad driver writes: (address, length, id, flags) from position `at` on."""
    data = b"".join(struct.pack("<QIHH", *each) for each in descriptors)
    loop.view("desc")[16 * at : 16 * at + len(data)] = data


def violation(loop: PackedLoopback) -> DriverViolation:
    with pytest.raises(DriverViolation) as caught:
        loop.device.fetch()
    return caught.value


def test_an_honest_chain_passes() -> None:
    loop = PackedLoopback(3)
    make_available(loop, (0x1000, 16, 9, NEXT | AVAIL), (0x2000, 512, 2, WRITE | AVAIL))
    chain = loop.device.fetch()
    assert chain is not None
    assert (chain.head, chain.readable, chain.writable) == (2, [(0x1000, 16)], [(0x2000, 512)])
    assert loop.device.next_avail == (2, 1)


@pytest.mark.parametrize("flags", [0, USED, AVAIL | USED])
def test_flags_that_do_not_match_the_wrap_counter_are_not_available(flags: int) -> None:
    loop = PackedLoopback(3)
    make_available(loop, (0x1000, 16, 0, flags))
    assert loop.device.fetch() is None
    assert loop.device.available() == 0


def test_after_a_turn_the_other_wrap_counter_counts() -> None:
    loop = PackedLoopback(1)
    make_available(loop, (0x1000, 16, 0, AVAIL))
    chain = loop.device.fetch()
    assert chain is not None
    loop.device.complete(chain.head, 0)
    make_available(loop, (0x1000, 16, 0, AVAIL))
    assert loop.device.fetch() is None
    make_available(loop, (0x1000, 16, 0, USED))
    assert loop.device.fetch() is not None


@pytest.mark.parametrize("flags", [0, USED, AVAIL | USED])
def test_a_list_of_which_only_the_first_is_marked_is_a_violation(flags: int) -> None:
    loop = PackedLoopback(3)
    make_available(loop, (0x1000, 16, 0, NEXT | AVAIL), (0x2000, 16, 0, flags))
    assert "2.8.6" in violation(loop).rule


def test_a_list_that_goes_round_into_itself_is_a_violation() -> None:
    loop = PackedLoopback(3)
    make_available(loop, *[(0x1000, 16, 0, NEXT | AVAIL)] * 3)
    assert "2.8.6" in violation(loop).rule


def test_a_readable_part_after_a_writable_one_is_a_violation() -> None:
    loop = PackedLoopback(3)
    make_available(loop, (0x1000, 16, 0, NEXT | WRITE | AVAIL), (0x2000, 512, 0, AVAIL))
    assert "2.7.4.2" in violation(loop).rule


def test_a_zero_length_is_a_violation() -> None:
    loop = PackedLoopback(3)
    make_available(loop, (0x1000, 0, 0, AVAIL))
    assert "length 0" in violation(loop).rule


@pytest.mark.parametrize("flags", [INDIRECT, 8, 1 << 6, 1 << 8, 1 << 14])
def test_flags_that_were_not_negotiated_are_a_violation(flags: int) -> None:
    loop = PackedLoopback(3)
    make_available(loop, (0x1000, 16, 0, flags | AVAIL))
    assert "NEXT and WRITE" in violation(loop).rule


def test_a_chain_over_4_gib_is_a_violation() -> None:
    loop = PackedLoopback(3)
    make_available(loop, (0x1000, 0xFFFFFFFF, 0, NEXT | AVAIL), (0x1000, 2, 0, AVAIL))
    assert "2**32" in violation(loop).rule


@pytest.mark.parametrize("id_", [3, 4, 0xFFFF])
def test_an_id_out_of_range_is_a_violation(id_: int) -> None:
    loop = PackedLoopback(3)
    make_available(loop, (0x1000, 16, id_, AVAIL))
    assert violation(loop).value == id_


def test_an_id_that_the_device_still_holds_is_a_violation() -> None:
    loop = PackedLoopback(3)
    make_available(loop, (0x1000, 16, 1, AVAIL), (0x1000, 16, 1, AVAIL))
    assert loop.device.fetch() is not None
    assert "buffer id" in violation(loop).rule


def test_a_descriptor_that_was_not_used_may_not_be_written_again() -> None:
    loop = PackedLoopback(2)
    make_available(loop, (0x1000, 16, 0, AVAIL), (0x1000, 16, 1, AVAIL))
    assert loop.device.fetch() is not None
    assert loop.device.fetch() is not None
    make_available(loop, (0x1000, 16, 0, USED))
    assert "2.8.16" in violation(loop).rule


@pytest.mark.parametrize(
    ("event_idx", "place", "flags"),
    [(False, 0, 2), (False, 0, 3), (True, 0, 3), (True, 0, 4), (True, 5, 2), (True, 0xFFFF, 2)],
)
def test_event_suppression_that_means_nothing_is_a_violation(event_idx: bool, place: int, flags: int) -> None:
    loop = PackedLoopback(5, event_idx=event_idx)
    event = loop.view("driver").cast("H")
    event[0] = place
    event[1] = flags
    assert "2.8.14" in violation(loop).rule


def test_a_violation_takes_nothing_from_the_ring() -> None:
    loop = PackedLoopback(3)
    make_available(loop, (0x1000, 0, 0, AVAIL))
    violation(loop)
    make_available(loop, (0x1000, 1, 0, AVAIL))
    assert loop.device.fetch() is not None


def test_serve_stops_at_a_violation_and_gives_up_at_its_deadline() -> None:
    loop = PackedLoopback(3)
    assert loop.device.serve(1, 10**7) == 0
    make_available(loop, (0x1000, 0, 0, AVAIL))
    with pytest.raises(DriverViolation, match="length 0"):
        loop.device.serve(1, 10**9)


@pytest.mark.parametrize("head", [0, 2, 3, 0xFFFFFFFF])
def test_completing_what_was_not_fetched_is_the_tests_own_mistake(head: int) -> None:
    loop = PackedLoopback(3)
    with pytest.raises(RingUsageError, match="not with the device"):
        loop.device.complete(head, 0)


@pytest.mark.parametrize(("written", "quiet", "flags"), [(5, False, WRITE), (0, False, 0), (5, True, 0)])
def test_a_used_descriptor_has_both_marks_and_write_when_something_was_written(
    written: int, quiet: bool, flags: int
) -> None:
    loop = PackedLoopback(3, quiet_flags=quiet)
    make_available(loop, (0x1000, 16, 2, WRITE | AVAIL))
    assert loop.device.fetch() is not None
    loop.device.complete(2, written)
    assert struct.unpack("<QIHH", loop.view("desc")[:16]) == (0x1000, written, 2, flags | AVAIL | USED)
    assert loop.device.next_used == (1, 1)


def test_a_chain_reads_and_writes_its_bytes_through_translate() -> None:
    memory = (ctypes.c_ubyte * 8)(*b"question")
    loop = PackedLoopback(3, translate=lambda address, _length, _writable: ctypes.addressof(memory) + address - 0xDEAD0)
    loop.driver.add([(0xDEAD0, 4)], [(0xDEAD4, 4)], None)
    loop.driver.publish()
    chain = loop.device.fetch()
    assert chain is not None
    assert chain.read() == b"ques"
    chain.write(b"!!")
    assert bytes(memory) == b"ques!!on"
