"""The svirtb device model: every MUST of seed 002 that a driver can break is noticed, and what the device owes it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hwloop.device.svirtb_memory import BadAddress, BytesBacking, FileBacking, GuestRam, HalMemory
from hwloop.device.svirtb_mmio import Gpa, MmioInfo, MmioRegion, OtherAccess, VmexitResult, Write32
from hwloop.device.svirtb_model import SimpleVirtIoBlockDev, SimpleVirtioBlockDevInner
from hwloop.device.svirtb_protocol import (
    ENTRY_BYTES,
    SVIRTB_BASE,
    Interpretation,
    ResetEndedBy,
    VirtIoStatus,
    VirtQueueEntry,
)
from hwloop.device.svirtb_queue import VirtQueue, VirtQueueFetcher
from hwloop.device.svirtb_rules import ASK_FOR_RESET, RULES, Keyword
from hwloop.errors import AlreadyUsed, InvalidParam, RefusedError, SetupError
from hwloop.hal.base import BufferDirection, Dma
from hwloop.hal.fake import FakeHal
from hwloop.transport.fake_device import RuleBroken
from mmio import RegionBase
from tests.unit.hwloop.device.svirtb_bench import HEAD, HI, LO, QUEUE_SIZE, SIZE, STATUS, TAIL, Bench, new_bench

MAGIC, DRIVER_OK, READY, RESET = 0x74726976, 0, 1, 2

# The accesses of the initialisation and of the first request, by number: what a driver does, one by one.
READ_MAGIC, WRITE_OK, READ_OK, WRITE_SIZE, READ_SIZE, WRITE_HI, READ_HI, WRITE_LO, READ_LO, WRITE_READY, READ_READY = (
    range(11)
)
DOORBELL = 11


class Meddler(RegionBase):
    """Between a good driver and the device: leaves out some of its accesses, changes some, and adds some before.

    A read that is left out answers what a good device would have.
    """

    def __init__(self, bench: Bench) -> None:
        super().__init__(24)
        self.device = bench.log
        self.count = 0
        self.left_out: set[int] = set()
        self.changed: dict[int, int] = {}
        self.added: dict[int, tuple[int, int]] = {}
        self.written: dict[int, int] = {STATUS: MAGIC}

    def _read(self, offset: int, width: int) -> int:
        left_out = self.count in self.left_out
        self._before()
        return self.written.get(offset, 0) if left_out else self.device.read32(offset)

    def _write(self, offset: int, width: int, value: int) -> None:
        number = self.count
        self._before()
        self.written[offset] = value
        if number not in self.left_out:
            self.device.write32(offset, self.changed.get(number, value))

    def _before(self) -> None:
        extra = self.added.pop(self.count, None)
        if extra is not None:
            self.device.write32(*extra)
        self.count += 1


def left_out(*numbers: int) -> Callable[[Meddler], None]:
    return lambda meddler: meddler.left_out.update(numbers)


def changed(number: int, value: int) -> Callable[[Meddler], None]:
    """The write carries another value, and the driver's look at it tells it nothing."""

    def meddle(meddler: Meddler) -> None:
        meddler.changed[number] = value
        meddler.left_out.add(number + 1)

    return meddle


def added(number: int, offset: int, value: int) -> Callable[[Meddler], None]:
    return lambda meddler: meddler.added.update({number: (offset, value)})


MUTANTS: dict[str, tuple[Callable[[Meddler], None], str]] = {
    "does not look for the magic": (left_out(READ_MAGIC), r"before the magic was read.*seed 002, 3, step 1: MUST"),
    "does not write DRIVER_OK": (left_out(WRITE_OK, READ_OK), r"queue_size was written while the status was MAGIC"),
    "does not read DRIVER_OK back": (left_out(READ_OK), r"before DRIVER_OK was read back.*seed 002, 3, step 3: MUST"),
    "configures before DRIVER_OK": (
        added(WRITE_OK, QUEUE_SIZE, 8),
        r"while the status was MAGIC.*seed 002, 2.1.1: MUST",
    ),
    "gives no size": (
        left_out(WRITE_SIZE, READ_SIZE),
        r"READY was written before queue_size.*seed 002, 3, step 4: MUST",
    ),
    "gives no high half": (left_out(WRITE_HI, READ_HI), "READY was written before queue_addr_hi"),
    "gives no low half": (left_out(WRITE_LO, READ_LO), "READY was written before queue_addr_lo"),
    "gives a size of 0": (changed(WRITE_SIZE, 0), r"ring of 0 entries .*.*seed 002, 2.1.2: MUST"),
    "gives a ring longer than its memory": (changed(WRITE_SIZE, 4096 // 28 + 1), "no memory of 4116 bytes"),
    "gives an address that is no memory": (changed(WRITE_HI, 0x7FFF), "no memory of 224 bytes is shared"),
    "does not write READY": (left_out(WRITE_READY, READ_READY), "doorbell was written while the status was DRIVER_OK"),
    "does not read READY back": (left_out(READ_READY), r"before READY was read back.*seed 002, 3, step 6: MUST"),
    "writes DRIVER_OK twice": (added(WRITE_SIZE, STATUS, DRIVER_OK), "DRIVER_OK was written while the status was"),
    "writes READY twice": (added(DOORBELL, STATUS, READY), "READY was written while the status was READY"),
    "writes READY first": (added(WRITE_OK, STATUS, READY), "READY was written while the status was MAGIC"),
    "configures after READY": (added(DOORBELL, QUEUE_SIZE, 4), "queue_size was written while the status was READY"),
    "rings before DRIVER_OK": (
        added(WRITE_OK, HEAD, 1),
        r"doorbell was written while the status was MAGIC.*seed 002, 3: MUST",
    ),
    "rings before READY": (added(WRITE_READY, HEAD, 1), "doorbell was written while the status was DRIVER_OK"),
    "writes the magic": (added(WRITE_OK, STATUS, MAGIC), r"the driver wrote MAGIC into status.*seed 002, 2.1.1: MUST"),
    "writes flags": (added(WRITE_SIZE, STATUS, READY | RESET), r"wrote 0x3 into status, which has no such value"),
    "writes the tail": (added(DOORBELL, TAIL, 0), r"the driver wrote queue_tail"),
    "writes the tail early": (added(WRITE_OK, TAIL, 0), r"the driver wrote queue_tail"),
    "rings with an index behind the ring": (changed(DOORBELL, 8), "queue_head 8 is impossible"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_driver_that_breaks_a_rule_is_caught(mutant: str) -> None:
    bench = new_bench()
    meddle, words = MUTANTS[mutant]
    meddler = Meddler(bench)
    meddle(meddler)

    def drive() -> None:
        bench.log = meddler  # type: ignore[assignment]
        with bench.open() as disk:
            disk.read(0, 512)

    with pytest.raises(RuleBroken, match=words) as caught:
        drive()
    assert bench.model.violations[0] is caught.value
    assert any(str(rule) in str(caught.value) for rule in RULES.values())


def test_every_rule_for_the_driver_has_a_section_and_is_absolute() -> None:
    assert [str(rule) for rule in RULES.values() if not rule.keyword.absolute] == [str(ASK_FOR_RESET)]
    assert str(RULES["NEVER_SET_MAGIC"]) == "seed 002, 2.1.1: MUST NOT"
    words = "MUST, MUST NOT, REQUIRED, SHALL, SHALL NOT, SHOULD, SHOULD NOT, RECOMMENDED, MAY, OPTIONAL"
    assert ", ".join(keyword.value for keyword in Keyword) == words


def test_the_driver_that_nobody_meddles_with_breaks_no_rule() -> None:
    bench = new_bench()
    bench.log = Meddler(bench)  # type: ignore[assignment]
    with bench.open() as disk:
        disk.read(0, 512)
    assert bench.model.violations == []


def test_over_a_wire_a_broken_rule_is_noted_and_the_device_asks_to_be_reset() -> None:
    bench = new_bench(strict=False)
    bench.log.write32(STATUS, READY)
    assert bench.log.read32(STATUS) == RESET
    assert "READY was written while the status was MAGIC" in str(bench.model.violations[0])
    bench.log.write32(STATUS, RESET)
    assert bench.log.read32(STATUS) == MAGIC


# --- Entries ----------------------------------------------------------------------------------------------------------


def submit_raw(bench: Bench, change: Callable[[VirtQueueEntry], VirtQueueEntry]) -> None:
    """A read of sector 0 whose entry was changed between the ring and the doorbell."""
    with bench.open() as disk:
        with disk.batch():
            disk.submit_read(0, 512)
            entry = VirtQueueEntry.parse(bytes(disk._ring.view[:ENTRY_BYTES]))
            disk._ring.view[:ENTRY_BYTES] = change(entry).format()
        disk.poll()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: VirtQueueEntry(e.addr, e.size, e.sector, 2), "neither read nor write"),
        (lambda e: VirtQueueEntry(e.addr, e.size, e.sector, 0xFFFFFFFF), "neither read nor write"),
        (lambda e: VirtQueueEntry(0, e.size, e.sector, 0), "no memory of 512 bytes is shared"),
        (lambda e: VirtQueueEntry(e.addr + 4096, e.size, e.sector, 0), "no memory of 512 bytes is shared"),
        (lambda e: VirtQueueEntry(e.addr, e.size, e.sector, 1), "may not read 512 bytes"),
    ],
)
def test_an_entry_that_a_driver_must_not_write_is_caught(
    change: Callable[[VirtQueueEntry], VirtQueueEntry], words: str
) -> None:
    with pytest.raises(RuleBroken, match=words):
        submit_raw(new_bench(), change)


@pytest.mark.parametrize(("size", "sector"), [(0, 0), (100, 0), (512, SIZE // 512), (512, 1 << 60), (1 << 60, 0)])
def test_an_entry_that_is_not_on_the_disk_puts_the_device_in_error(size: int, sector: int) -> None:
    bench = new_bench()
    with bench.open() as disk:
        with disk.batch():
            disk.submit_read(0, 512)
            entry = VirtQueueEntry.parse(bytes(disk._ring.view[:ENTRY_BYTES]))
            disk._ring.view[:ENTRY_BYTES] = VirtQueueEntry(entry.addr, size, sector, 0).format()
        assert bench.model.inner.status == RESET
        assert bench.model.registers.peek(TAIL, 4) == 0
    assert bench.model.violations == []


def test_more_entries_than_are_free_are_caught() -> None:
    bench = new_bench()
    bench.model.hold = True
    with bench.open() as disk:
        for _ in range(7):
            disk.submit_read(0, 512)
        with pytest.raises(RuleBroken, match="queue_head 0 is impossible: 0 of 8 entries are free"):
            bench.log.write32(HEAD, 0)


def test_a_disk_that_fails_puts_the_device_in_error() -> None:
    bench = new_bench()
    with bench.open() as disk:
        bench.model.inner.file_system.read = lambda offset, length: os.pread(-1, length, offset)  # type: ignore[method-assign]
        with pytest.raises(OSError, match="RESET"):
            disk.read(0, 512)
    assert "the disk failed" in bench.model.errors[0]


def test_the_fetcher_gives_the_entries_from_the_tail_to_the_head() -> None:
    hal = FakeHal()
    ring = Dma(hal, 1, BufferDirection.DriverToDevice)
    entries = [VirtQueueEntry(i, 512, i, 0) for i in range(4)]
    ring.view[: 4 * ENTRY_BYTES] = b"".join(entry.format() for entry in entries)
    queue = VirtQueue.new_from_raw_ptr(HalMemory(hal), ring.paddr, 4)
    assert list(VirtQueueFetcher(queue, 2, 5)) == [entries[2], entries[3], entries[0]]
    fetcher = VirtQueueFetcher(queue, 1, 2)
    assert (fetcher.fetch(), fetcher.fetch()) == (entries[1], None)
    with pytest.raises(BadAddress):
        VirtQueue.new_from_raw_ptr(HalMemory(hal), ring.paddr, 4096 // ENTRY_BYTES + 1)
    with pytest.raises(BadAddress):
        VirtQueue.new_from_raw_ptr(HalMemory(hal), ring.paddr, 0)


# --- The device's own duties ------------------------------------------------------------------------------------------


def test_the_magic_shows_at_start_and_after_each_reset_with_every_register_zero() -> None:
    bench = new_bench()
    for _ in range(2):
        assert bench.log.read32(STATUS) == MAGIC
        assert [bench.log.read32(offset) for offset in (QUEUE_SIZE, HI, LO, HEAD, TAIL)] == [0] * 5
        with bench.open() as disk:
            disk.read(0, 512)
        bench.new_machine()


def test_the_head_stays_what_the_driver_wrote() -> None:
    bench = new_bench()
    with bench.open() as disk:
        for turn in range(1, 20):
            disk.read(0, 512)
            assert bench.log.read32(HEAD) == turn % 8


def test_the_tail_moves_only_when_a_request_is_complete() -> None:
    bench = new_bench()
    with bench.open() as disk:
        bench.model.hold = True
        for i in range(3):
            disk.submit_write(i, b"w" * 512)
        for done in range(1, 4):
            bench.model.release(1)
            assert bench.log.read32(TAIL) == done
            assert bench.data[: 4 * 512].count(b"w") == done * 512


def test_a_device_that_ends_its_reset_itself_shows_reset_once() -> None:
    bench = new_bench(strict=False, interpretation=Interpretation(reset_ended_by=ResetEndedBy.DEVICE))
    bench.log.write32(STATUS, READY)
    assert [bench.log.read32(STATUS) for _ in range(3)] == [RESET, MAGIC, MAGIC]


def test_a_reset_is_over_only_when_no_memory_is_touched_any_more() -> None:
    bench = new_bench(strict=False)
    entered, go = threading.Event(), threading.Event()

    class Slow(BytesBacking):
        def read(self, offset: int, length: int) -> bytes:
            entered.set()
            go.wait(30)
            return super().read(offset, length)

    bench.model.inner.file_system = Slow(bench.data)
    bench.model.start()
    disk = bench.open(step_seconds=5.0)
    disk.submit_read(0, 512)
    assert entered.wait(30)
    closer = threading.Thread(target=disk.close)
    closer.start()
    closer.join(0.05)
    assert closer.is_alive(), "the device still writes the buffer"
    go.set()
    closer.join(30)
    assert not closer.is_alive()
    bench.model.close()
    assert bench.model.violations == []
    assert bench.hal.leaks() == []


def test_a_broken_rule_in_the_devices_own_thread_is_noted() -> None:
    bench = new_bench()
    bench.model.start()
    submit_raw_in_thread(bench)
    assert "neither read nor write" in str(bench.model.violations[0])


def submit_raw_in_thread(bench: Bench) -> None:
    disk = bench.open(request_seconds=5.0, step_seconds=5.0)
    with disk.batch():
        disk.submit_read(0, 512)
        entry = VirtQueueEntry.parse(bytes(disk._ring.view[:ENTRY_BYTES]))
        disk._ring.view[:ENTRY_BYTES] = VirtQueueEntry(entry.addr, 512, 0, 9).format()
    with pytest.raises(OSError, match="RESET"):
        disk.wait(1)
    disk.close()
    bench.model.close()


# --- The seed's interface ---------------------------------------------------------------------------------------------


def test_the_region_is_the_header_at_0xcafe0000() -> None:
    assert new_bench().model.region() == MmioRegion(Gpa(0xCAFE0000), Gpa(0xCAFE0018))


def test_a_write_of_32_bits_is_handled_and_everything_else_is_left_alone() -> None:
    bench = new_bench()
    at = Gpa(SVIRTB_BASE)
    bench.log.read32(STATUS)
    for width in (1, 2, 8):
        assert bench.model.handle(MmioInfo(OtherAccess(at, width, write=True))) is VmexitResult.Ok
    bench.log.write8(STATUS, DRIVER_OK)
    bench.log.write16(STATUS, DRIVER_OK)
    bench.log.write64(STATUS, DRIVER_OK)
    assert bench.log.read32(STATUS) == MAGIC
    assert bench.model.handle(MmioInfo(Write32(at, DRIVER_OK))) is VmexitResult.Ok
    assert bench.log.read32(STATUS) == DRIVER_OK
    assert bench.model.violations == []


def test_a_device_is_attached_where_nothing_else_is() -> None:
    bench = new_bench()
    other = SimpleVirtIoBlockDev(BytesBacking(bytearray(512)), HalMemory(bench.hal), address=SVIRTB_BASE + 20)
    with pytest.raises(AlreadyUsed, match="0xcafe0000"):
        other.attach(bench.hal.regions)
    beside = SimpleVirtIoBlockDev(BytesBacking(bytearray(512)), HalMemory(bench.hal), address=SVIRTB_BASE + 24)
    beside.attach(bench.hal.regions)
    assert sorted(bench.hal.regions) == [SVIRTB_BASE, SVIRTB_BASE + 24]


def test_a_new_device_has_the_magic_no_queue_and_its_disk() -> None:
    disk = BytesBacking(bytearray(SIZE))
    made = SimpleVirtIoBlockDev(disk, HalMemory(FakeHal()))
    assert made.inner == SimpleVirtioBlockDevInner(VirtIoStatus.MAGIC, None, disk)


# --- Disks and memory -------------------------------------------------------------------------------------------------


def test_a_file_is_a_disk_and_has_one_user(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1024))
    with FileBacking(str(image)) as disk:
        assert disk.size == 1024
        disk.write(512, b"f" * 512)
        assert image.read_bytes()[512:] == disk.read(512, 512) == b"f" * 512
        with pytest.raises(RefusedError, match="in use"):
            FileBacking(str(image))
        os.truncate(image, 512)
        with pytest.raises(OSError, match="ends 512 bytes early"):
            disk.read(512, 512)
    FileBacking(str(image)).close()


@pytest.mark.parametrize("size", [0, 1, 513])
def test_a_file_that_is_not_whole_sectors_is_no_disk(tmp_path: Path, size: int) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(size))
    with pytest.raises(InvalidParam, match=f"{size} bytes"):
        FileBacking(str(image))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot open .*nothing\.img: No such file"):
        FileBacking(str(tmp_path / "nothing.img"))


def test_no_memory_is_no_address() -> None:
    with pytest.raises(BadAddress, match="1 bytes at 0x0"):
        GuestRam().read(0, 1)
