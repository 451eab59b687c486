"""The svirtb driver: what it writes and when, and what it makes of a device that breaks the rules."""

from __future__ import annotations

import random
import threading
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwloop.device.stream import read_range, write_range
from hwloop.device.svirtb import SvirtbBlk
from hwloop.device.svirtb_model import Faults
from hwloop.device.svirtb_protocol import Indices, Interpretation, ResetEndedBy, Tail, VirtIoStatus
from hwloop.device.svirtb_registers import SvirtbRegisters, probe_svirtb
from hwloop.errors import (
    DeadlineExpired,
    DeviceClosed,
    DeviceError,
    DeviceLost,
    InvalidParam,
    NotReady,
    QueueBroken,
    TransportError,
    Unsupported,
)
from mmio import FakeRegion
from tests.unit.hwloop.device.svirtb_bench import HEAD, HI, LO, QUEUE_SIZE, SIZE, STATUS, TAIL, new_bench, opened

MAGIC = 0x74726976
READINGS = [Interpretation(*choice) for choice in product(Indices, Tail, ResetEndedBy)]


# --- The rules for a driver -------------------------------------------------------------------------------------------


def test_the_initialisation_is_exactly_the_six_steps() -> None:
    with opened() as (disk, bench):
        ring = disk._ring.paddr
        assert ring >> 32, "so that the high half can be told from the low one"
        assert [(access.op[0], access.offset, access.value) for access in bench.log.log] == [
            ("r", STATUS, MAGIC),
            ("w", STATUS, 0),
            ("r", STATUS, 0),
            ("w", QUEUE_SIZE, 8),
            ("r", QUEUE_SIZE, 8),
            ("w", HI, ring >> 32),
            ("r", HI, ring >> 32),
            ("w", LO, ring & 0xFFFFFFFF),
            ("r", LO, ring & 0xFFFFFFFF),
            ("w", STATUS, 1),
            ("r", STATUS, 1),
        ]


def test_every_access_is_of_32_bits_and_the_tail_and_the_magic_are_never_written() -> None:
    with opened() as (disk, bench):
        for sector in range(40):
            disk.write(sector, bytes(512))
            disk.read(sector, 512)
        disk.recover()
        disk.read(0, 512)
    assert {access.width for access in bench.log.log} == {4}
    assert bench.writes(TAIL) == []
    assert set(bench.writes(STATUS)) == {VirtIoStatus.DRIVER_OK, VirtIoStatus.READY, VirtIoStatus.RESET}


def test_the_doorbell_is_not_written_before_ready() -> None:
    region = FakeRegion(24, on_write=lambda offset, width, value: pytest.fail("nothing may be written"))
    registers = SvirtbRegisters(region, Interpretation())
    with pytest.raises(NotReady, match="not READY"):
        registers.notify(1)


def test_the_doorbell_is_not_written_after_a_reset() -> None:
    with opened() as (disk, bench):
        disk.registers.reset()
        with pytest.raises(NotReady):
            disk.registers.notify(1)
        assert bench.writes(HEAD) == []


def test_a_batch_is_one_write_of_the_doorbell() -> None:
    with opened() as (disk, bench):
        with disk.batch():
            tokens = [disk.submit_write(i, bytes([i]) * 512) for i in range(5)]
            assert bench.writes(HEAD) == []
        assert bench.writes(HEAD) == [5]
        assert [disk.wait(token) for token in tokens] == [b""] * 5
        assert bench.data[: 5 * 512] == b"".join(bytes([i]) * 512 for i in range(5))


def test_waiting_inside_a_batch_sends_what_there_is() -> None:
    with opened() as (disk, bench), disk.batch():
        assert disk.wait(disk.submit_read(0, 512)) == bytes(512)
        disk.submit_read(0, 512)
        assert bench.writes(HEAD) == [1]


def test_closing_resets_the_device_and_waits_for_the_magic() -> None:
    with opened() as (_, bench):
        bench.log.log.clear()
    assert [(a.op[0], a.offset, a.value) for a in bench.log.log] == [("r", 0, 1), ("w", 0, 2), ("r", 0, MAGIC)]
    assert bench.model.inner.status == MAGIC


# --- Each reading of the gaps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", READINGS, ids=str)
def test_every_reading_of_the_gaps_works_around_the_ring_many_times(reading: Interpretation) -> None:
    with opened(interpretation=reading, queue_size=4) as (disk, bench):
        for sector in range(100):
            disk.write(sector, sector.to_bytes(2, "little") * 256)
        bench.model.faults.fail_after = 110
        for sector in range(10):
            assert disk.read(sector, 512) == sector.to_bytes(2, "little") * 256
        with pytest.raises(DeviceLost):
            disk.read(0, 512)
        bench.model.faults.fail_after = -1
        disk.recover()
        assert disk.read(99, 512) == b"\x63\0" * 256


def test_free_running_indices_use_every_entry_and_wrap_at_32_bits() -> None:
    reading = Interpretation(indices=Indices.FREE_RUNNING)
    with opened(interpretation=reading) as (disk, bench):
        assert disk.requests_free == 8
        start = (1 << 32) - 3
        disk._added = disk._published = disk._completed = start
        bench.model._head = bench.model._consumed = start
        bench.model._show_tail()
        for sector in range(6):
            disk.write(sector, bytes([sector + 1]) * 512)
        assert bench.writes(HEAD) == [0xFFFFFFFE, 0xFFFFFFFF, 0, 1, 2, 3]
        assert bench.data[: 6 * 512] == b"".join(bytes([i + 1]) * 512 for i in range(6))


def test_a_sector_of_4096_bytes_is_a_block_and_the_unit_of_entries() -> None:
    with opened(interpretation=Interpretation(sector_size=4096)) as (disk, bench):
        assert (disk.block_size(), disk.num_blocks(), disk.capacity()) == (4096, 16, 128)
        disk.write(24, b"b" * 4096)
        assert bench.data[3 * 4096 : 4 * 4096] == b"b" * 4096


def test_a_reading_that_the_device_does_not_share_is_found() -> None:
    bench = new_bench(interpretation=Interpretation(tail=Tail.LAST))
    with bench.open(interpretation=Interpretation()) as disk, pytest.raises(QueueBroken, match="queue_tail is 7"):
        disk.poll()


# --- A device that breaks the rules -----------------------------------------------------------------------------------

NEVER = DeadlineExpired
AT_OPEN: list[tuple[str, dict[str, Any], type[DeviceError], str]] = [
    ("no magic", {"magic": 0x12345678}, TransportError, "0x12345678 and not MAGIC: there is no svirtb"),
    ("all ones", {"gone": True}, TransportError, "0xffffffff"),
    ("ready without a driver", {"magic": VirtIoStatus.READY}, TransportError, "holds READY"),
    ("DRIVER_OK does not stick", {"keep_status_at": {VirtIoStatus.DRIVER_OK}}, NEVER, "DRIVER_OK to show"),
    ("size is forgotten", {"forget": {"queue_size"}}, DeviceError, "took 0x8 as queue_size and shows 0x0"),
    ("address is forgotten", {"forget": {"queue_addr_hi"}}, DeviceError, "as queue_addr_hi"),
    ("READY does not stick", {"keep_status_at": {VirtIoStatus.READY}}, NEVER, "READY to show"),
    ("READY is refused", {"refuse": True}, DeviceLost, "answered READY with RESET"),
]


@pytest.mark.parametrize(("name", "faults", "error", "words"), AT_OPEN, ids=[case[0] for case in AT_OPEN])
def test_a_device_that_breaks_the_initialisation_is_refused_and_nothing_is_left(
    name: str, faults: dict[str, Any], error: type[DeviceError], words: str
) -> None:
    bench = new_bench()
    bench.model.faults = Faults(**faults)
    bench.model.reset()
    with pytest.raises(error, match=words):
        bench.open()
    assert bench.hal.leaks() == []
    assert bench.model.violations == []


def test_a_device_is_found_by_its_magic_alone() -> None:
    bench = new_bench()
    assert probe_svirtb(bench.log)
    bench.model.faults.magic = 0x74726977
    bench.model.reset()
    assert not probe_svirtb(bench.log)
    assert [access.op for access in bench.log.log] == ["read", "read"]


def test_what_has_not_the_magic_is_never_written_to() -> None:
    bench = new_bench()
    bench.model.faults.magic = 0
    bench.model.reset()
    with pytest.raises(TransportError, match="holds DRIVER_OK"):
        bench.open()
    assert {access.op for access in bench.log.log} == {"read"}


IN_USE: list[tuple[str, dict[str, Any], type[DeviceError], str]] = [
    ("tail behind the ring", {"tail": lambda tail: 8}, QueueBroken, "queue_tail is 8"),
    ("tail all ones", {"tail": lambda tail: 0xFFFFFFFF}, QueueBroken, "queue_tail is 4294967295"),
    ("tail over the head", {"tail": lambda tail: tail + 1}, QueueBroken, "queue_tail is 2"),
    ("tail goes back", {"tail": lambda tail: tail - 2}, QueueBroken, "queue_tail is"),
    ("error", {"fail_after": 0}, DeviceLost, "asks to be reset"),
    ("reset of its own", {"reset_after": 0}, DeviceLost, "its status is MAGIC"),
    ("nothing completes", {"drop": True}, NEVER, "a request to complete"),
    ("head is changed", {"drop": True, "move_head": True}, DeviceLost, "changed queue_head from 1 to 2"),
    ("unplugged", {"gone": True}, DeviceLost, "gone|not READY any more: its status is 0xffffffff"),
]


@pytest.mark.fault(62, over="svirtb")
@pytest.mark.parametrize(("name", "faults", "error", "words"), IN_USE, ids=[case[0] for case in IN_USE])
def test_a_device_that_breaks_the_rules_in_use_is_caught_and_can_be_used_again(
    name: str, faults: dict[str, Any], error: type[DeviceError], words: str
) -> None:
    with opened() as (disk, bench):
        bench.model.faults = Faults(**faults)
        if "tail" in faults and name == "tail goes back":
            bench.model.faults.tail = None
            disk.read(0, 1024)
            bench.model.faults.tail = faults["tail"]
        with pytest.raises(error, match=words):
            disk.read(0, 512)
        with pytest.raises(DeviceLost, match="out of order"):
            disk.read(0, 512)
        bench.model.faults = Faults()
        if name == "unplugged":
            bench.model.reset()
        disk.recover()
        disk.write(1, b"again" + bytes(507))
        assert disk.read(1, 512)[:5] == b"again"
    assert bench.model.violations == []


def test_a_tail_that_moved_is_not_believed_when_the_device_reset_itself() -> None:
    """After a reset the tail is 0, which looks like a completion when the ring was one entry before its end."""
    with opened(queue_size=4) as (disk, bench):
        for _ in range(3):
            disk.read(0, 512)
        bench.model.faults.reset_after = 3
        token = disk.submit_read(0, 512)
        assert bench.model.registers.peek(TAIL, 4) == 0
        with pytest.raises(DeviceLost, match="MAGIC"):
            disk.wait(token)


def test_a_lost_doorbell_is_written_again() -> None:
    with opened() as (disk, bench):
        bench.model.faults.lose_doorbells = 1
        assert disk.read(0, 512) == bytes(512)
        assert bench.writes(HEAD) == [1, 1]


def test_requests_in_flight_fail_when_the_device_asks_to_be_reset() -> None:
    with opened() as (disk, bench):
        bench.model.hold = True
        tokens = [disk.submit_read(0, 512) for _ in range(4)]
        bench.model.release(2)
        assert disk.complete(tokens[0]) == bytes(512)
        bench.model.faults.fail_after = 2
        bench.model.release()
        for token in tokens[2:]:
            with pytest.raises(DeviceLost):
                disk.wait(token)
        assert disk.complete(tokens[1]) == bytes(512), "it had completed before"


def test_a_sector_that_the_device_has_not_is_a_device_that_asks_to_be_reset() -> None:
    bench = new_bench()
    disk = SvirtbBlk(bench.hal, bench.log, SIZE // 512 + 8, queue_size=8, request_seconds=0.1)
    with disk:
        assert disk.read(SIZE // 512 - 1, 512) == bytes(512)
        with pytest.raises(DeviceLost, match="RESET"):
            disk.read(SIZE // 512, 512)
    assert bench.model.violations == []
    assert "not whole sectors of a disk" in bench.model.errors[0]


# --- Its end, and beginning anew --------------------------------------------------------------------------------------


def test_no_memory_is_used_again_when_the_reset_does_not_complete() -> None:
    bench = new_bench()
    disk = bench.open()
    disk.submit_read(0, 512)
    bench.model.faults.keep_status_at = {VirtIoStatus.RESET}
    with pytest.raises(DeadlineExpired, match="MAGIC after a reset"):
        disk.close()
    assert bench.hal.leaks() != []


def test_a_device_whose_reset_did_not_complete_is_not_used_again() -> None:
    bench = new_bench()
    disk = bench.open()
    bench.model.faults.keep_status_at = {VirtIoStatus.RESET}
    bench.model.faults.drop = True
    with pytest.raises(DeadlineExpired):
        disk.read(0, 512)
    with pytest.raises(DeviceLost, match="did not complete"):
        disk.recover()
    disk.close()


def test_recover_begins_anew_and_what_was_in_flight_has_failed() -> None:
    with opened() as (disk, bench):
        bench.model.hold = True
        token = disk.submit_write(0, b"x" * 512)
        disk.recover()
        bench.model.hold = False
        with pytest.raises(DeviceLost, match="began anew"):
            disk.complete(token)
        assert disk.read(0, 512) == bytes(512)


def test_a_closed_disk_does_not_recover() -> None:
    with opened() as (disk, _):
        disk.close()
        with pytest.raises(DeviceClosed):
            disk.recover()


def test_a_device_whose_driver_died_is_opened_with_reset_first() -> None:
    bench = new_bench()
    bench.open()
    bench.new_machine()
    with pytest.raises(TransportError, match="holds READY and not MAGIC"):
        bench.open()
    bench.new_machine()
    with bench.open(reset_first=True) as disk:
        assert disk.read(0, 512) == bytes(512)


# --- What it is -------------------------------------------------------------------------------------------------------


def test_what_the_protocol_lacks_is_said() -> None:
    with opened() as (disk, _):
        disk.flush()
        assert not disk.readonly()
        with pytest.raises(Unsupported, match="no serial"):
            disk.device_id()
        with pytest.raises(Unsupported, match="flush"):
            disk.submit_flush()


@pytest.mark.parametrize("options", [{"queue_size": 1}, {"interpretation": Interpretation(sector_size=1 << 17)}])
def test_a_disk_that_cannot_be_is_refused_before_the_device_is_touched(options: dict[str, Any]) -> None:
    bench = new_bench()
    with pytest.raises(InvalidParam):
        bench.open(**options)
    assert bench.log.log == []


def test_streams_of_any_alignment_run_over_it() -> None:
    with opened() as (disk, bench):
        assert list(write_range(disk, 700, [b"a" * 1000, b"b" * 3000]))[-1] == 4000
        assert b"".join(read_range(disk, 700, 4000)) == b"a" * 1000 + b"b" * 3000
        assert bench.data[700:4700] == b"a" * 1000 + b"b" * 3000


@settings(max_examples=60, deadline=None)
@given(
    reading=st.sampled_from(READINGS),
    queue_size=st.sampled_from([2, 4, 16]),
    batches=st.lists(
        st.lists(st.tuples(st.booleans(), st.integers(0, 120), st.integers(1, 8)), max_size=15), max_size=6
    ),
)
def test_random_batches_agree_with_a_model(
    reading: Interpretation, queue_size: int, batches: list[list[tuple[bool, int, int]]]
) -> None:
    model = bytearray(SIZE)
    with opened(interpretation=reading, queue_size=queue_size) as (disk, bench):
        for number, batch in enumerate(batches):
            expected: dict[int, bytes] = {}
            with disk.batch():
                for write, sector, count in batch[: disk.requests_free]:
                    where = slice(sector * 512, (sector + count) * 512)
                    if write:
                        model[where] = random.Random(number).randbytes(count * 512)
                        expected[disk.submit_write(sector, bytes(model[where]))] = b""
                    else:
                        expected[disk.submit_read(sector, count * 512)] = bytes(model[where])
            assert {token: disk.wait(token) for token in expected} == expected
        assert bench.data == model
        assert bench.model.violations == []


def test_two_threads_share_a_disk_whose_device_is_a_third() -> None:
    with opened(strict=False, request_seconds=5.0) as (disk, bench):
        bench.model.start()
        wrong: list[int] = []

        def work(first: int) -> None:
            for turn in range(40):
                sector = first + turn % 4
                disk.write(sector, bytes([turn]) * 512)
                if disk.read(sector, 512) != bytes([turn]) * 512:
                    wrong.append(sector)

        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
    bench.model.close()
    assert bench.model.violations == []


def test_a_request_that_does_not_complete_tells_the_registers() -> None:
    with opened() as (disk, bench):
        bench.model.faults.drop = True
        with pytest.raises(DeadlineExpired) as caught:
            disk.read(0, 512)
    notes = "\n".join(caught.value.__notes__)
    assert "ring: 1 added, 1 published, 0 completed" in notes
    assert "queue_head: 0x1" in notes


def test_a_bus_that_fails_is_a_device_that_is_lost_and_its_memory_is_not_used_again() -> None:
    bench = new_bench()
    disk = bench.open()

    def broken(offset: int, width: int) -> int:
        raise OSError(5, "the bus is broken")

    bench.model.registers._on_read = broken
    with pytest.raises(DeviceLost, match="does not answer: the bus is broken"):
        disk.read(0, 512)
    disk.close()
    assert bench.hal.leaks() != []
