"""The numbers of seed 002, and each reading of what it leaves open."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwloop.device.svirtb_protocol import (
    SVIRTB_BASE,
    Indices,
    Interpretation,
    Tail,
    VirtIoMmioHeader,
    VirtIoStatus,
    VirtQueueEntry,
    VirtQueueEntryCmd,
)
from hwloop.errors import InvalidParam

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)


def test_the_header_has_six_registers_in_24_bytes_with_the_high_half_first() -> None:
    layout = [(register.name, register.offset, register.width) for register in VirtIoMmioHeader.registers()]
    assert layout == [
        ("status", 0, 4),
        ("queue_size", 4, 4),
        ("queue_addr_hi", 8, 4),
        ("queue_addr_lo", 12, 4),
        ("queue_head", 16, 4),
        ("queue_tail", 20, 4),
    ]
    assert VirtIoMmioHeader.span == 24
    assert SVIRTB_BASE == 0xCAFE0000


def test_the_driver_has_no_way_to_write_the_tail() -> None:
    assert not VirtIoMmioHeader.queue_tail.writable
    assert VirtIoMmioHeader.queue_head.writable


def test_status_values_are_values_and_not_bits() -> None:
    assert VirtIoStatus.MAGIC.to_bytes(4, "little") == b"virt"
    assert (VirtIoStatus.DRIVER_OK, VirtIoStatus.READY, VirtIoStatus.RESET) == (0, 1, 2)
    with pytest.raises(ValueError, match="3 is not a valid"):
        VirtIoStatus(VirtIoStatus.READY | VirtIoStatus.RESET)


def test_an_entry_is_28_little_endian_bytes_without_padding() -> None:
    entry = VirtQueueEntry(0x1122334455667788, 0x200, 3, VirtQueueEntryCmd.Write)
    expected = "88776655443322110002000000000000030000000000000001000000"
    assert entry.format().hex() == expected
    assert (VirtQueueEntryCmd.Read, VirtQueueEntryCmd.Write) == (0, 1)


@given(addr=U64, size=U64, sector=U64, cmd=U32)
def test_any_entry_is_parsed_as_it_was_formatted(addr: int, size: int, sector: int, cmd: int) -> None:
    entry = VirtQueueEntry(addr, size, sector, cmd)
    assert VirtQueueEntry.parse(entry.format()) == entry


@pytest.mark.parametrize("bad", [{"addr": -1}, {"size": 1 << 64}, {"sector": 1 << 64}, {"cmd": 1 << 32}])
def test_an_entry_that_does_not_fit_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(InvalidParam, match="does not fit"):
        VirtQueueEntry(**{"addr": 0, "size": 0, "sector": 0, "cmd": 0} | bad).format()


@pytest.mark.parametrize("length", [0, 27, 29, 32])
def test_an_entry_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(InvalidParam, match=f"28 bytes, not {length}"):
        VirtQueueEntry.parse(bytes(length))


def test_the_defaults_are_those_of_the_decision_record() -> None:
    usual = Interpretation()
    assert (usual.indices, usual.tail, usual.sector_size) == (Indices.MODULO, Tail.NEXT, 512)
    assert usual.usable(8) == 7


@pytest.mark.parametrize(
    ("indices", "size"),
    [(Indices.MODULO, 0), (Indices.MODULO, 1), (Indices.MODULO, 1 << 16), (Indices.FREE_RUNNING, 6)],
)
def test_a_queue_that_cannot_work_is_refused(indices: Indices, size: int) -> None:
    with pytest.raises(InvalidParam, match=f"{size} entries"):
        Interpretation(indices=indices).check_queue_size(size)


@pytest.mark.parametrize("size", [0, 256, 513, 1000])
def test_a_sector_size_is_a_power_of_two_from_512_on(size: int) -> None:
    with pytest.raises(InvalidParam):
        Interpretation(sector_size=size)


@given(
    reading=st.sampled_from([Interpretation(*choice) for choice in product(Indices, Tail)]),
    size=st.sampled_from([2, 4, 8, 64]),
    done=st.integers(0, 1 << 34),
    data=st.data(),
)
def test_what_the_device_shows_is_what_the_driver_understands(
    reading: Interpretation, size: int, done: int, data: st.DataObject
) -> None:
    new = data.draw(st.integers(0, reading.usable(size)))
    assert reading.consumed(done, reading.tail_of(done + new, size), size) == new
    assert reading.progress(done, reading.wrap(done + new, size), size) == new


def test_the_tail_is_the_next_entry_or_the_last_one() -> None:
    assert [Interpretation().tail_of(n, 4) for n in range(6)] == [0, 1, 2, 3, 0, 1]
    assert [Interpretation(tail=Tail.LAST).tail_of(n, 4) for n in range(6)] == [3, 0, 1, 2, 3, 0]
    free = Interpretation(indices=Indices.FREE_RUNNING)
    assert [free.tail_of(n, 4) for n in (0, 4, 5, (1 << 32) + 1)] == [0, 4, 5, 1]
    assert Interpretation(Indices.FREE_RUNNING, Tail.LAST).tail_of(0, 4) == 0xFFFFFFFF


def test_an_index_that_cannot_be_is_no_progress() -> None:
    assert Interpretation().progress(0, 8, 8) is None
    assert Interpretation().progress(0, 7, 8) == 7
