"""The notes of a back end, at the offsets that QEMU's document gives them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from hwloop.vhost.inflight import InflightMemory, region_bytes
from hwloop.vhost.messages import Inflight

SIZE = 8
SECOND = region_bytes(SIZE)


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("notes")
    os.ftruncate(fd, 2 * SECOND)
    yield fd
    os.close(fd)


def memory(file: int) -> InflightMemory:
    return InflightMemory(Inflight(2 * SECOND, 0, 2, SIZE), file)


def head(file: int, region: int = SECOND) -> tuple[int, ...]:
    """features, version, desc_num, last_batch_head, used_idx."""
    return struct.unpack("<QHHHH", os.pread(file, 16, region))


def descriptor(file: int, index: int, region: int = SECOND) -> tuple[int, ...]:
    """inflight, next, counter."""
    return struct.unpack("<B5xHQ", os.pread(file, 16, region + 16 + 16 * index))


def test_a_region_is_whole_cache_lines() -> None:
    assert region_bytes(SIZE) == 192
    assert region_bytes(128) == 16 + 16 * 128 + 48


def test_what_is_noted_stands_where_the_document_has_it(file: int) -> None:
    with memory(file) as notes:
        queue = notes.queue(1)
        assert queue.recover(0) == []
        assert head(file) == (0, 1, SIZE, 0, 0)
        queue.take(5)
        queue.take(2)
        assert (descriptor(file, 5), descriptor(file, 2)) == ((1, 0, 0), (1, 0, 1))
        queue.about_to_use(5)
        assert head(file) == (0, 1, SIZE, 5, 0)
        queue.used(1)
        assert (descriptor(file, 5)[0], descriptor(file, 2)[0]) == (0, 1)
        assert head(file) == (0, 1, SIZE, 5, 1)
    assert os.pread(file, SECOND, 0) == bytes(SECOND)


def test_the_next_one_takes_up_what_was_not_used_the_oldest_first(file: int) -> None:
    with memory(file) as notes:
        queue = notes.queue(0)
        queue.recover(0)
        for each in (5, 2, 7):
            queue.take(each)
    with memory(file) as notes:
        queue = notes.queue(0)
        assert queue.recover(0) == [5, 2, 7]
        queue.take(1)
        queue.about_to_use(2)
        queue.used(1)
    with memory(file) as notes:
        assert notes.queue(0).recover(1) == [5, 7, 1]


@pytest.mark.parametrize("at", [0, 0xFFFF])
def test_what_was_used_and_not_struck_out_is_struck_out_by_the_next_one(file: int, at: int) -> None:
    with memory(file) as notes:
        queue = notes.queue(0)
        queue.recover(at)
        for each in (5, 2, 7):
            queue.take(each)
        queue.about_to_use(2)
        queue.about_to_use(5)
    with memory(file) as notes:
        assert notes.queue(0).recover(at + 2 & 0xFFFF) == [7]


def test_what_was_about_to_be_used_and_is_not_is_still_in_flight(file: int) -> None:
    with memory(file) as notes:
        queue = notes.queue(0)
        queue.recover(0)
        queue.take(5)
        queue.about_to_use(5)
    with memory(file) as notes:
        assert notes.queue(0).recover(0) == [5]
