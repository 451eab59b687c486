from __future__ import annotations

import struct
from typing import Any

import pytest

from cython_ring import DriverViolation, IndirectTables, Loopback, PackedLoopback, PackedRing, RingUsageError, SplitRing

READ = ([(0x1000, 16)], [(0x2000, 512), (0x3000, 1)])
NEXT, WRITE, INDIRECT, AVAIL = 1, 2, 4, 1 << 7

Both = Loopback | PackedLoopback
both = pytest.mark.parametrize("make", [Loopback, PackedLoopback])


def entries(view: memoryview, count: int) -> list[tuple[int, ...]]:
    return list(struct.iter_unpack("<QIHH", view[: 16 * count]))


@both
def test_a_chain_in_a_table_takes_one_descriptor_and_the_device_sees_its_parts(make: Any) -> None:
    loop: Both = make(4, table_parts=3)
    for token in range(4):
        loop.driver.add(*READ, token)
    assert loop.driver.free == 0
    assert loop.driver.publish() == 4
    for token in range(4):
        chain = loop.device.fetch()
        assert chain is not None
        assert (chain.readable, chain.writable) == READ
        loop.device.complete(chain.head, 513)
        assert loop.driver.pop() == (token, 513)
    assert loop.driver.free == 4
    assert loop.guards_intact()


def test_a_table_of_a_split_ring_is_chained_by_next() -> None:
    loop = Loopback(4, table_parts=3)
    loop.driver.add(*READ, None)
    table = loop.driver.dump()["outstanding"][0]["descriptors"][0]["address"]
    assert entries(loop.view("desc"), 1) == [(table, 48, INDIRECT, 0)]
    assert entries(loop.view("tables"), 3) == [
        (0x1000, 16, NEXT, 1),
        (0x2000, 512, NEXT | WRITE, 2),
        (0x3000, 1, WRITE, 0),
    ]


def test_a_table_of_a_packed_ring_has_no_flag_but_write_and_no_id() -> None:
    loop = PackedLoopback(4, table_parts=3)
    loop.driver.add([(0x9000, 1)], [], None)
    loop.driver.add(*READ, None)
    loop.driver.publish()
    table = loop.driver.dump()["outstanding"][1]["descriptors"][0]["address"]
    assert entries(loop.view("desc"), 2)[1] == (table, 48, 1, INDIRECT | AVAIL)
    assert entries(loop.view("tables")[48:], 3) == [(0x1000, 16, 0, 0), (0x2000, 512, 0, WRITE), (0x3000, 1, 0, WRITE)]


@both
def test_one_part_needs_no_table_and_too_many_go_into_the_ring(make: Any) -> None:
    loop: Both = make(8, table_parts=3)
    loop.driver.add([(0x1000, 16)], [], "one")
    assert loop.driver.free == 7
    loop.driver.add([(0x1000, 16)] * 2, [(0x2000, 1)] * 2, "four")
    assert loop.driver.free == 3
    assert not any(loop.view("tables"))
    loop.driver.publish()
    for count in (1, 4):
        chain = loop.device.fetch()
        assert chain is not None
        assert len(chain.readable) + len(chain.writable) == count


@both
def test_a_chain_longer_than_the_queue_is_refused_even_where_a_table_could_hold_it(make: Any) -> None:
    loop: Both = make(2, table_parts=8)
    loop.driver.add([(0x1000, 1)], [(0x2000, 1)], None)
    with pytest.raises(RingUsageError, match="more parts"):
        loop.driver.add(*READ, None)


@both
def test_a_table_belongs_to_its_chain_until_it_is_popped(make: Any) -> None:
    loop: Both = make(2, table_parts=2)
    loop.driver.add([(0x1000, 1)], [(0x2000, 2)], "slow")
    loop.driver.publish()
    slow = loop.device.fetch()
    assert slow is not None
    first = bytes(loop.view("tables")[:32])
    for token in range(10):
        loop.driver.add([(0x3000, 3)], [(0x4000, 4)], token)
        loop.driver.publish()
        chain = loop.device.fetch()
        assert chain is not None
        loop.device.complete(chain.head, 0)
        assert loop.driver.pop() == (token, 0)
        assert bytes(loop.view("tables")[:32]) == first


@both
def test_a_dump_shows_the_table(make: Any) -> None:
    loop: Both = make(2, table_parts=2)
    loop.driver.add([(0x1000, 1)], [(0x2000, 2)], None)
    chain = loop.driver.dump()["outstanding"][0]
    assert [part[:2] for part in chain["table"]] == [(0x1000, 1), (0x2000, 2)]
    loop.driver.close()
    assert loop.driver.dump()["outstanding"][0]["table"] is None


def test_tables_are_at_the_devices_address_plus_their_place() -> None:
    loop = Loopback(4, table_parts=2)
    areas = [loop._address(area) for area in ("desc", "avail", "used")]
    ring = SplitRing(4, *areas, tables=IndirectTables(loop._address("tables"), 0xABC000, 2))
    ring.add([(0x1, 1)], [(0x2, 1)], None)
    ring.add([(0x1, 1)], [(0x2, 1)], None)
    assert [entry[0] for entry in entries(loop.view("desc"), 2)] == [0xABC000, 0xABC020]
    assert ring.table_parts == 2


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (IndirectTables(0x1008, 0, 3), "indirect tables at 0x1008 is not aligned"),
        (IndirectTables(0x1000, 8, 3), "device address 0x8"),
        (IndirectTables(0x1000, -16, 3), "device address"),
        (IndirectTables(0x1000, 0, 1), "room for 1 parts"),
        (IndirectTables(0x1000, 0, 32769), "room for 32769 parts"),
    ],
)
def test_tables_that_cannot_be_are_refused(tables: IndirectTables, says: str) -> None:
    loop = PackedLoopback(4)
    with pytest.raises(RingUsageError, match=says):
        PackedRing(4, *[loop._address(area) for area in ("desc", "driver", "device")], tables=tables)


# --- The device's side is strict about tables too ---


def split_violation(descriptor: tuple[int, int, int, int], *table: tuple[int, int, int, int]) -> str:
    loop = Loopback(4, table_parts=4)
    address, length, flags, link = descriptor
    loop.view("tables")[: 16 * len(table)] = b"".join(struct.pack("<QIHH", *each) for each in table)
    loop.view("desc")[:16] = struct.pack("<QIHH", address or loop._address("tables"), length, flags, link)
    loop.view("avail").cast("H")[1] = 1
    with pytest.raises(DriverViolation) as caught:
        loop.device.fetch()
    return caught.value.rule


@pytest.mark.parametrize(
    ("descriptor", "table", "says"),
    [
        ((0, 32, INDIRECT | NEXT, 1), [], "alone"),
        ((0, 32, INDIRECT | WRITE, 0), [], "alone"),
        ((0, 0, INDIRECT, 0), [], "multiple of 16"),
        ((0, 24, INDIRECT, 0), [], "multiple of 16"),
        ((0, 16, INDIRECT, 0), [(0x1000, 1, NEXT, 1)], "next is an index"),
        ((0, 32, INDIRECT, 0), [(0x1000, 1, NEXT, 0)], "loop"),
        ((0, 16, INDIRECT, 0), [(0x1000, 1, INDIRECT, 0)], "only NEXT"),
        ((0, 16, INDIRECT, 0), [(0x1000, 0, 0, 0)], "length 0"),
        ((0, 32, INDIRECT, 0), [(0x1000, 1, NEXT | WRITE, 1), (0x1000, 1, 0, 0)], "2.7.4.2"),
    ],
)
def test_bad_tables_of_a_split_ring_are_violations(
    descriptor: tuple[int, int, int, int], table: list[tuple[int, int, int, int]], says: str
) -> None:
    assert says in split_violation(descriptor, *table)


@pytest.mark.parametrize(
    ("descriptor", "table", "says"),
    [
        ((0, 32, 0, INDIRECT | NEXT | AVAIL), [], "alone"),
        ((0, 32, 0, INDIRECT | WRITE | AVAIL), [], "alone"),
        ((0, 24, 0, INDIRECT | AVAIL), [], "multiple of 16"),
        ((0, 16, 0, INDIRECT | AVAIL), [(0x1000, 1, 0, NEXT)], "ids are 0"),
        ((0, 16, 0, INDIRECT | AVAIL), [(0x1000, 1, 3, 0)], "ids are 0"),
        ((0, 80, 0, INDIRECT | AVAIL), [(0x1000, 1, 0, 0)] * 5, "longer than the queue"),
    ],
)
def test_bad_tables_of_a_packed_ring_are_violations(
    descriptor: tuple[int, int, int, int], table: list[tuple[int, int, int, int]], says: str
) -> None:
    loop = PackedLoopback(4, table_parts=8)
    address, *rest = descriptor
    loop.view("tables")[: 16 * len(table)] = b"".join(struct.pack("<QIHH", *each) for each in table)
    loop.view("desc")[:16] = struct.pack("<QIHH", address or loop._address("tables"), *rest)
    with pytest.raises(DriverViolation) as caught:
        loop.device.fetch()
    assert says in caught.value.rule


@both
def test_a_table_that_translate_refuses_is_a_violation(make: Any) -> None:
    def translate(address: int, length: int, writable: bool) -> int:
        raise LookupError(hex(address))

    loop: Both = make(4, table_parts=3, translate=translate)
    loop.driver.add(*READ, None)
    loop.driver.publish()
    with pytest.raises(DriverViolation, match="memory that the device can read"):
        loop.device.fetch()
