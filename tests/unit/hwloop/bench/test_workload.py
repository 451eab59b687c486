"""Which requests a workload is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

import hwloop
from hwloop.bench.workload import KINDS, Operation, Pattern, Workload
from hwloop.device.block import BlockDevice
from hwloop.errors import InvalidParam, ReadOnlyDisk

DISK = "fake:1M?block-size=1024"


def fitted(workload: Workload, target: str = DISK) -> Workload:
    with hwloop.open(target) as disk:
        assert isinstance(disk, BlockDevice)
        return workload.on(disk)


def taken(workload: Workload, count: int = 1000, job: int = 0, phase: str = "") -> list[Operation]:
    return Pattern(fitted(workload), job, phase).take(count)


def sectors(operations: list[Operation]) -> list[int]:
    return [sector for _, sector in operations]


@pytest.mark.parametrize(
    ("kind", "writes"), [("randread", 0), ("read", 0), ("randwrite", 1000), ("write", 1000)]
)  # fmt: skip
def test_reading_kinds_never_write_and_writing_kinds_only_write(kind: str, writes: int) -> None:
    assert sum(write for write, _ in taken(Workload(kind))) == writes


@pytest.mark.parametrize(("percent", "low", "high"), [(0, 0, 0), (30, 240, 360), (50, 430, 570), (100, 1000, 1000)])
def test_a_mix_has_the_share_of_reads_that_was_asked_for(percent: int, low: int, high: int) -> None:
    reads = sum(not write for write, _ in taken(Workload("randrw", read_percent=percent)))
    assert low <= reads <= high


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, 100 * 1024, 3 * 1024])
def test_every_request_is_whole_and_within_its_range(kind: str, size: int | None) -> None:
    first = 64 * 1024
    for sector in sectors(taken(Workload(kind, 2048, offset=first, size=size))):
        begin = sector * 512 - first
        assert begin % 2048 == 0
        assert 0 <= begin <= (size or (1 << 20) - first) - 2048


def test_random_positions_reach_the_whole_range_about_equally_often() -> None:
    counts = Counter(sectors(taken(Workload(block_bytes=4096, size=64 << 10), 16_000)))
    assert len(counts) == 16
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_the_same_seed_gives_the_same_requests_and_another_one_others() -> None:
    workload = Workload("randrw")
    assert taken(workload) == taken(workload)
    assert taken(workload) != taken(replace(workload, seed=2))
    assert taken(workload) != taken(workload, phase="warm-up")
    assert taken(replace(workload, jobs=2)) != taken(replace(workload, jobs=2), job=1)


def test_in_order_means_from_the_offset_to_the_end_and_again() -> None:
    workload = Workload("read", 1024, offset=2048, size=3 * 1024)
    assert sectors(taken(workload, 7)) == [4, 6, 8, 4, 6, 8, 4]


def test_jobs_that_read_in_order_begin_at_shares_of_their_own() -> None:
    workload = Workload("read", 1024, jobs=4)
    assert [sectors(taken(workload, 1, job)) for job in range(4)] == [[0], [512], [1024], [1536]]


def test_the_rest_of_the_disk_is_used_when_nothing_else_is_said() -> None:
    assert fitted(Workload(offset=4096)).size == (1 << 20) - 4096


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (Workload(block_bytes=0), "a request cannot have 0 bytes"),
        (Workload(block_bytes=512), "multiple of the disk's block size 1024"),
        (Workload(block_bytes=1536), "a request cannot have 1536 bytes"),
        (Workload(block_bytes=4 << 20), "up to 2097152"),
        (Workload(offset=512), "offset 512 does not begin a block of 1024 bytes"),
        (Workload(offset=2 << 20), "do not hold one request"),
        (Workload(size=2048), "2048 bytes at 0 do not hold one request of 4096"),
        (Workload(offset=4096, size=1 << 20), "end behind the disk, which has 1048576 bytes"),
    ],
)
def test_what_does_not_fit_the_disk_is_refused(workload: Workload, words: str) -> None:
    with pytest.raises(InvalidParam, match=words):
        fitted(workload)


@pytest.mark.parametrize("kind", ["randwrite", "write", "randrw"])
def test_a_read_only_disk_is_not_measured_by_writing(kind: str) -> None:
    with pytest.raises(ReadOnlyDisk, match="nothing was sent"):
        fitted(Workload(kind), "fake:1M?read-only=on")
