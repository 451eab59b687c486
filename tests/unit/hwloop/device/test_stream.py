"""Transfers of any alignment, against a bytearray."""

from __future__ import annotations

import errno
import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_protocol import RequestType
from hwloop.device.fake_blk import FakeBlk
from hwloop.device.stream import read_range, read_views, write_range, write_stream
from hwloop.device.writer import BlockWriter
from hwloop.errors import InvalidParam, IoError, ReadOnlyDisk
from hwloop.hal.fake import FakeHal
from hwloop.spec import BlkFeature
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN

SIZE = 64 << 10


@contextmanager
def disk_of(size: int = SIZE, block_size: int = 512, **shape: Any) -> Iterator[tuple[VirtioBlk, FakeBlk]]:
    hal = FakeHal()
    features = MODERN | BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX | BlkFeature.SIZE_MAX
    device = FakeBlk(hal, size, block_size=block_size, features=shape.pop("features", features), **shape)
    device.data[:] = random.Random(9).randbytes(size)
    with VirtioBlk(FakeTransport(device), hal, request_seconds=0.5) as disk:
        yield disk, device
    assert hal.leaks() == []


def written(disk: VirtioBlk, offset: int, chunks: list[bytes]) -> list[int]:
    return list(write_range(disk, offset, chunks))


_shapes = st.sampled_from(
    [
        {"block_size": 512},
        {"block_size": 4096},
        {"block_size": 512, "size_max": 512, "seg_max": 3},
        {"block_size": 4096, "size_max": 1000, "seg_max": 5},
        {"block_size": 512, "queue_size": 4},
        {"block_size": 512, "queue_size": 64, "size_max": 512, "seg_max": 40},
    ]
)
_offsets = st.one_of(st.integers(0, SIZE), st.sampled_from([0, 1, 511, 512, 513, 4095, 4096, SIZE - 1, SIZE]))


@settings(max_examples=120, deadline=None)
@given(shape=_shapes, offset=_offsets, length=st.integers(0, SIZE))
@example(shape={"block_size": 4096}, offset=0, length=SIZE)
def test_any_range_is_read_as_it_is_on_the_disk(shape: dict[str, int], offset: int, length: int) -> None:
    length = min(length, SIZE - offset)
    with disk_of(**shape) as (disk, device):
        assert b"".join(read_range(disk, offset, length)) == device.data[offset : offset + length]


@settings(max_examples=120, deadline=None)
@given(
    shape=_shapes,
    offset=_offsets,
    sizes=st.lists(st.one_of(st.integers(0, 100), st.sampled_from([511, 512, 513, 4096, 10_000])), max_size=8),
)
@example(shape={"block_size": 4096}, offset=5, sizes=[1])
@example(shape={"block_size": 4096}, offset=5, sizes=[])
@example(shape={"block_size": 4096}, offset=4095, sizes=[2])
@example(shape={"block_size": 512}, offset=SIZE - 1, sizes=[1])
def test_any_stream_in_any_pieces_changes_exactly_its_range(
    shape: dict[str, int], offset: int, sizes: list[int]
) -> None:
    data = b"\xa5" * min(sum(sizes), SIZE - offset)
    chunks, rest = [], data
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    with disk_of(**shape) as (disk, device):
        model = bytearray(device.data)
        model[offset : offset + len(data)] = data
        progress = written(disk, offset, chunks)
        assert device.data == model
        assert progress == sorted(progress)
        assert (progress[-1] if progress else 0) == len(data), "the bytes of the stream are counted, and no others"


def test_nothing_to_write_touches_nothing() -> None:
    with disk_of(block_size=4096) as (disk, device):
        device.requests.clear()
        assert written(disk, 5, []) == written(disk, 5, [b"", b""]) == []
        assert device.requests == []


def test_whole_blocks_are_written_without_being_read() -> None:
    with disk_of(block_size=4096) as (disk, device):
        device.requests.clear()
        written(disk, 4096, [bytes(8192)])
        assert device.requests == [RequestType.OUT]


def test_a_stream_in_the_middle_of_one_block_reads_and_writes_that_block() -> None:
    with disk_of() as (disk, device):
        before = bytes(device.data)
        device.requests.clear()
        written(disk, 600, [b"XY"])
        assert device.data == before[:600] + b"XY" + before[602:]
        assert device.requests == [RequestType.IN, RequestType.IN, RequestType.OUT]


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (0, -1), (0, SIZE + 1), (SIZE, 1), (SIZE + 1, 0), (1 << 70, 1)]
)
def test_a_range_that_is_not_on_the_disk_is_refused_before_anything_is_read(offset: int, length: int) -> None:
    with disk_of() as (disk, device):
        device.requests.clear()
        with pytest.raises(InvalidParam, match=f"which has {SIZE} bytes; at offset {offset} there are"):
            list(read_range(disk, offset, length))
        assert device.requests == []


def test_a_stream_that_is_too_long_writes_what_fits_before_it_and_is_settled() -> None:
    with disk_of(size_max=4096, seg_max=1) as (disk, device):
        before = bytes(device.data)
        with pytest.raises(InvalidParam) as caught:
            written(disk, SIZE - 8192, [b"1" * 4096, b"2" * 4096, b"3"])
        assert caught.value.errno == errno.EINVAL
        assert device.data == before[: SIZE - 8192] + b"1" * 4096 + b"2" * 4096
        assert disk._in_flight == disk._done == {}


def test_a_write_to_a_read_only_disk_writes_nothing() -> None:
    with disk_of(features=MODERN | BlkFeature.RO) as (disk, device):
        with pytest.raises(ReadOnlyDisk):
            written(disk, 0, [bytes(512)])
        assert RequestType.OUT not in device.requests


def test_an_error_in_the_middle_of_a_read_leaves_no_request_behind() -> None:
    with disk_of(size_max=512, seg_max=1) as (disk, device):
        stream = read_range(disk, 0, SIZE)
        next(stream)
        device.blk_faults.io_error = 1
        with pytest.raises(IoError):
            list(stream)
        assert disk._in_flight == disk._done == {}
        assert b"".join(read_range(disk, 0, SIZE)) == device.data


def test_an_error_in_the_middle_of_a_write_is_raised_once_everything_is_settled() -> None:
    with disk_of(size_max=512, seg_max=1) as (disk, device):
        stream = write_range(disk, 0, [bytes(512)] * 20)
        device.blk_faults.io_error = 1
        with pytest.raises(IoError, match="OUT at sector"):
            list(stream)
        assert disk._in_flight == disk._done == {}


def test_a_reader_that_stops_early_leaves_no_request_behind() -> None:
    with disk_of(size_max=512, seg_max=1) as (disk, _):
        stream = read_range(disk, 0, SIZE)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert disk._in_flight == disk._done == {}


def test_a_queue_that_others_fill_is_no_error() -> None:
    with disk_of(queue_size=8) as (disk, device):
        others = [disk.submit_read(0, 512) for _ in range(disk.requests_free)]
        expected = bytes(device.data)
        assert b"".join(read_range(disk, 0, SIZE)) == expected
        written(disk, 0, [expected])
        assert sorted(disk.poll()) == others


@pytest.mark.parametrize("slow", [False, True])
def test_two_requests_are_in_flight_at_once_and_more_where_the_device_is_waited_for(slow: bool) -> None:
    with disk_of(size_max=512, seg_max=1) as (disk, device):
        most = 0
        device.hold = slow
        serve = device.serve

        def watched(chain: object) -> int:
            nonlocal most
            most = max(most, len(disk._in_flight))
            return serve(chain)  # type: ignore[arg-type]

        def one(seconds: float) -> bool:
            device.release(0, 1)
            return True

        device.serve = watched  # type: ignore[method-assign]
        if slow:
            disk._wait_for_completion = one  # type: ignore[method-assign]
        assert b"".join(read_range(disk, 0, SIZE)) == device.data
        assert most == (4 if slow else 2)
        most = 0
        written(disk, 0, [bytes(SIZE)])
        assert device.data == bytes(SIZE)
        assert most == (4 if slow else 2)


def test_memory_stays_constant_over_a_long_stream() -> None:
    with disk_of(size=4 << 20) as (disk, _):
        sizes = {len(chunk) for chunk in read_range(disk, 0, 4 << 20)}
        assert sizes == {disk.max_transfer()}


# --- Without a copy ---------------------------------------------------------------------------------------------------


def test_views_are_the_bytes_until_the_next_one_is_asked_for() -> None:
    with disk_of(size_max=4096, seg_max=1) as (disk, device):
        seen, last = b"", None
        for view in read_views(disk, 100, SIZE - 200):
            assert last is None or _is_released(last)
            seen, last = seen + bytes(view), view
        assert seen == device.data[100:-100]


def _is_released(view: memoryview) -> bool:
    try:
        return len(view) < 0
    except ValueError:
        return True


def test_a_reader_of_views_that_stops_early_leaves_no_memory_behind() -> None:
    with disk_of(size_max=512, seg_max=1) as (disk, _):
        for _ in range(3):
            views = read_views(disk, 0, SIZE)
            next(views)
            views.close()
        assert disk._in_flight == disk._done == {}
        assert disk._ended == []


@settings(max_examples=60, deadline=None)
@given(shape=_shapes, offset=_offsets, length=st.integers(0, SIZE), step=st.integers(1, 9000))
@example(shape={"block_size": 4096}, offset=5, length=0, step=1)
def test_a_stream_that_fills_the_memory_itself_changes_exactly_its_range(
    shape: dict[str, int], offset: int, length: int, step: int
) -> None:
    length = min(length, SIZE - offset)
    source = io.BytesIO(b"\xa5" * length)
    with disk_of(**shape) as (disk, device):
        model = bytearray(device.data)
        model[offset : offset + length] = b"\xa5" * length
        progress = list(write_stream(disk, offset, lambda memory: source.readinto(memory[:step])))
        assert device.data == model
        assert progress == sorted(progress)
        assert (progress[-1] if progress else 0) == length


def test_a_stream_that_is_too_long_fills_the_disk_before_it_is_an_error() -> None:
    source = io.BytesIO(b"x" * 9000)
    with disk_of() as (disk, device):
        with pytest.raises(InvalidParam, match=f"at {SIZE} are not on the disk"):
            list(write_stream(disk, SIZE - 8192, source.readinto))
        assert device.data[-8192:] == b"x" * 8192
        assert disk._in_flight == disk._done == {}


def test_a_write_that_is_refused_keeps_no_memory() -> None:
    """`disk_of` looks whether all memory came back."""
    with disk_of(features=MODERN | BlkFeature.RO) as (disk, _), pytest.raises(ReadOnlyDisk):
        list(write_stream(disk, 0, io.BytesIO(bytes(4096)).readinto))


def test_a_signal_while_a_write_is_waited_for_leaves_its_memory_with_the_device() -> None:
    with disk_of(size_max=512, seg_max=1) as (disk, device), BlockWriter(disk) as writer:
        device.hold = True
        waited = disk._wait_for_completion

        def interrupted(seconds: float) -> bool:
            raise KeyboardInterrupt

        disk._wait_for_completion = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            writer.write(0, b"1" * 512 + b"2" * 512 + b"3" * 512)
        disk._wait_for_completion = waited  # type: ignore[method-assign]
        device.hold = False
        device.release()
        writer.write(4096, b"4" * 512)
        writer.finish()
        assert device.data[:1024] == b"1" * 512 + b"2" * 512
        assert device.data[4096:4608] == b"4" * 512
