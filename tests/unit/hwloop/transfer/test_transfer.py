"""Sources, sinks, copying and comparing, against bytes in memory."""

from __future__ import annotations

import io
import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_protocol import RequestType
from hwloop.device.fake_blk import FakeBlk
from hwloop.device.writer import BlockWriter
from hwloop.errors import InvalidParam, IoError, Mismatch, SetupError, Unsupported
from hwloop.hal.fake import FakeHal
from hwloop.spec import BlkFeature
from hwloop.transfer import sink, source
from hwloop.transfer.check import check_pattern, write_pattern
from hwloop.transfer.compare import compare, first_difference
from hwloop.transfer.copy import Job, Outcome, copy
from hwloop.transfer.end import check_different, path_of, target_of
from hwloop.transfer.pattern import parse_pattern
from hwloop.transfer.piece import GRAIN_BYTES, Piece, find_zeros, is_zero
from hwloop.transfer.sink import DiskSink, FileSink, Sink, StreamSink
from hwloop.transfer.source import DiskSource, FileSource, StreamSource
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN

SIZE = 1 << 20
FEATURES = MODERN | BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX | BlkFeature.FLUSH


@contextmanager
def disk_of(size: int = SIZE, block_size: int = 512, **shape: Any) -> Iterator[tuple[VirtioBlk, FakeBlk]]:
    hal = FakeHal()
    device = FakeBlk(hal, size, block_size=block_size, features=shape.pop("features", FEATURES), **shape)
    with VirtioBlk(FakeTransport(device), hal, request_seconds=0.5) as disk:
        yield disk, device
    assert hal.leaks() == []


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def sparse(length: int) -> bytes:
    """Data, zeros, data, and zeros at the end."""
    data = bytearray(noise(length))
    data[GRAIN_BYTES : 3 * GRAIN_BYTES] = bytes(2 * GRAIN_BYTES)
    data[length - GRAIN_BYTES :] = bytes(GRAIN_BYTES)
    return bytes(data)


def file_of(path: Path, data: bytes) -> str:
    """A file with holes wherever there are grains of zeros."""
    with path.open("wb") as file:
        for piece in find_zeros([Piece(0, len(data), data)]):
            file.seek(piece.offset)
            if piece.data is not None:
                file.write(piece.data)
        file.truncate(len(data))
    return str(path)


class Pipe(io.BytesIO):
    """What was written stays when it is closed."""

    written = b""

    def close(self) -> None:
        if not self.closed:
            self.written = self.getvalue()
        super().close()


# --- Pieces -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([b"\0" * 64, b"x" * 64, b"\0" * 63 + b"y", b"\0" * 10]), max_size=12))
def test_zeros_are_found_and_no_byte_is_lost(parts: list[bytes]) -> None:
    data = b"".join(parts)
    found = list(find_zeros([Piece(100, len(data), data)] if data else [], grain=64))
    assert b"".join(piece.content for piece in found) == data
    assert [piece.offset for piece in found] == [100 + sum(p.length for p in found[:i]) for i in range(len(found))]
    assert all(is_zero(piece.content) is (piece.data is None) for piece in found if piece.length % 64 == 0)
    assert all(a.data is None or b.data is None for a, b in pairwise(found)), "runs are put together"


@given(st.binary(min_size=1, max_size=50), st.integers(0, 49))
def test_the_first_difference_is_the_first(data: bytes, at: int) -> None:
    at %= len(data)
    other = bytearray(data)
    other[at] ^= 1
    other[at:] = bytes([other[at], *random.Random(at).randbytes(len(data) - at - 1)])
    assert first_difference(data, bytes(other)) == at
    assert first_difference(data, data) is None


# --- Copying ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 511, 512, 5 * GRAIN_BYTES + 3, SIZE])
@pytest.mark.parametrize("block_size", [512, 4096])
def test_a_file_with_holes_arrives_on_a_disk_with_everything_else_left_alone(
    tmp_path: Path, length: int, block_size: int
) -> None:
    data = sparse(SIZE)[:length]
    with disk_of(block_size=block_size) as (disk, device):
        device.data[:] = b"\xaa" * SIZE
        outcome = copy(FileSource(file_of(tmp_path / "in", data)), DiskSink(disk, "disk"), Job(verify=True))
        assert device.data == data + b"\xaa" * (SIZE - length)
        assert device.durable == device.data
        assert (outcome.length, outcome.verified) == (length, True)


def test_holes_are_not_read_and_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "in"
    with path.open("wb") as file:
        file.truncate(64 << 30)
        os.pwrite(file.fileno(), b"data", 20 << 30)
    out = tmp_path / "out"
    outcome = copy(FileSource(str(path)), FileSink(str(out)), Job())
    status = out.stat()
    assert (status.st_size, outcome.length) == (64 << 30, 64 << 30)
    assert status.st_blocks * 512 <= GRAIN_BYTES >= outcome.data
    with out.open("rb") as file:
        assert os.pread(file.fileno(), 4, 20 << 30) == b"data"


def test_zeros_of_a_disk_become_holes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with disk_of() as (disk, device):
        device.data[:] = sparse(SIZE)
        outcome = copy(DiskSource(disk, "disk"), FileSink(str(out)), Job(verify=True))
        assert out.read_bytes() == device.data
    assert outcome.zeros == 3 * GRAIN_BYTES
    assert out.stat().st_blocks * 512 <= SIZE - 3 * GRAIN_BYTES


def test_zeros_replace_what_a_file_had(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"x" * SIZE)
    copy(FileSource(file_of(tmp_path / "in", bytes(SIZE // 2))), FileSink(str(out), keep=True), Job(sink_offset=1000))
    assert out.read_bytes() == b"x" * 1000 + bytes(SIZE // 2) + b"x" * (SIZE // 2 - 1000)


def test_a_pipe_gets_every_byte() -> None:
    data, out = sparse(SIZE), Pipe()
    copy(StreamSource(io.BytesIO(data), "in"), StreamSink(cast(Any, out), "out"), Job())
    assert out.getvalue() == data


def test_a_disk_that_is_zero_is_not_written_with_zeros(tmp_path: Path) -> None:
    with disk_of() as (disk, device):
        copy(FileSource(file_of(tmp_path / "in", bytes(SIZE))), DiskSink(disk, "disk"), Job(target_is_zero=True))
        assert RequestType.OUT not in device.requests


@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(0, 70_000), length=st.integers(0, 300_000), to=st.integers(0, 70_000),
    block_size=st.sampled_from([512, 4096, 65536]),
)  # fmt: skip
def test_any_part_goes_to_any_place(start: int, length: int, to: int, block_size: int) -> None:
    data = sparse(SIZE)
    with disk_of(block_size=block_size) as (disk, device):
        device.data[:] = b"\xaa" * SIZE
        copy(StreamSource(io.BytesIO(data), "in"), DiskSink(disk, "d"), Job(start, to, length, verify=True))
        assert device.data == b"\xaa" * to + data[start : start + length] + b"\xaa" * (SIZE - to - length)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (Job(), "do not fit"),
        (Job(sink_offset=SIZE), "do not fit"),
        (Job(length=SIZE + 1), "do not fit"),
        (Job(length=3 * SIZE), "there is no"),
        (Job(source_offset=3 * SIZE), "there is no offset"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_byte(tmp_path: Path, job: Job, words: str) -> None:
    with disk_of() as (disk, device):
        with pytest.raises(InvalidParam, match=words):
            copy(FileSource(file_of(tmp_path / "in", noise(2 * SIZE))), DiskSink(disk, "disk"), job)
        assert RequestType.OUT not in device.requests


def test_a_pipe_that_is_too_long_fills_the_disk_and_is_an_error() -> None:
    data = noise(2 * SIZE + 100)
    with disk_of() as (disk, device):
        with pytest.raises(InvalidParam, match="are not on the disk"):
            copy(StreamSource(io.BytesIO(data), "in"), DiskSink(disk, "disk"), Job(sink_offset=700))
        assert device.data == bytes(700) + data[: SIZE - 700]


def test_a_pipe_that_is_too_short_leaves_what_came() -> None:
    with disk_of() as (disk, device):
        with pytest.raises(InvalidParam, match="in ended after 5000 bytes"):
            copy(StreamSource(io.BytesIO(noise(5000)), "in"), DiskSink(disk, "disk"), Job(length=6000))
        assert device.data == noise(5000) + bytes(SIZE - 5000)
        assert device.durable == device.data


def test_a_device_that_loses_a_write_is_found_out_by_verify(tmp_path: Path) -> None:
    with disk_of() as (disk, device):
        answer = device._answer

        def forgetful(number: int, sector: int, *rest: Any) -> tuple[int, bytes]:
            found = answer(number, sector, *rest)
            if number == RequestType.OUT:
                device.data[SIZE // 2] ^= 1
            return found

        device._answer = forgetful  # type: ignore[method-assign]
        with pytest.raises(Mismatch, match="does not hold what was copied") as caught:
            copy(FileSource(file_of(tmp_path / "in", noise(SIZE))), DiskSink(disk, "disk"), Job(verify=True))
        assert caught.value.offset == SIZE // 2
        assert caught.value.exit_code == 1


def test_an_error_of_the_device_comes_through_and_nothing_is_in_flight(tmp_path: Path) -> None:
    with disk_of(size_max=4096, seg_max=4, features=FEATURES | BlkFeature.SIZE_MAX) as (disk, device):
        device.blk_faults.io_error = 1
        outcome = Outcome()
        with DiskSink(disk, "disk") as to, pytest.raises(IoError):
            copy(FileSource(file_of(tmp_path / "in", noise(SIZE))), to, Job(), outcome=outcome)
        assert disk._in_flight == {}


def test_a_full_file_system_is_named() -> None:
    full = sink.open_path("/dev/full")
    with pytest.raises(SetupError, match="cannot write /dev/full: No space left on device; make room"):
        copy(StreamSource(io.BytesIO(noise(SIZE)), "in"), full, Job())


def test_a_file_that_may_not_grow_says_so(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limits[1]))
        with (
            FileSink(str(tmp_path / "out")) as to,
            pytest.raises(SetupError, match="out: File too large"),
        ):
            copy(StreamSource(io.BytesIO(noise(SIZE)), "in"), to, Job())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_pipe_cannot_be_verified() -> None:
    with pytest.raises(Unsupported, match="leave --verify out"):
        copy(StreamSource(io.BytesIO(b"x"), "in"), StreamSink(io.BytesIO(), "out"), Job(verify=True))


# --- The writer -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 9000)), max_size=10), st.sampled_from([512, 4096, 65536])
)
def test_pieces_at_any_place_change_exactly_these(pieces: list[tuple[int, int]], block_size: int) -> None:
    with disk_of(size=128 << 10, block_size=block_size) as (disk, device):
        device.data[:] = noise(128 << 10)
        model = bytearray(device.data)
        with BlockWriter(disk) as writer:
            for number, (offset, length) in enumerate(pieces):
                data = noise(length, number)
                model[offset : offset + length] = data
                writer.write(offset, data)
            writer.finish()
        assert device.data == model
        assert writer.done == sum(length for _, length in pieces)


# --- Comparing --------------------------------------------------------------------------------------------------------


def compared(left: bytes, right: bytes, **options: Any) -> tuple[int | None, str]:
    found = compare(StreamSource(io.BytesIO(left), "left"), StreamSource(io.BytesIO(right), "right"), **options)
    return found.offset, found.longer


def test_equal_bytes_are_equal_wherever_the_pieces_end(tmp_path: Path) -> None:
    data = sparse(3 * SIZE + 5)
    found = compare(FileSource(file_of(tmp_path / "in", data)), StreamSource(io.BytesIO(data), "pipe"))
    assert (found.equal, found.length, found.longer) == (True, len(data), "")


def test_the_first_difference_is_told() -> None:
    data = sparse(3 * SIZE)
    for at in (0, 1, GRAIN_BYTES, SIZE - 1, SIZE, 2 * SIZE + 77):
        other = bytearray(data)
        other[at] ^= 0x80
        assert compared(data, bytes(other)) == (at, "")


def test_zeros_behind_the_shorter_one_are_equal_unless_one_is_strict() -> None:
    data = noise(1000)
    assert compared(data, data + bytes(3 * SIZE)) == (None, "right")
    assert compared(data + bytes(5), data) == (None, "left")
    assert compared(data, data + bytes(9) + b"x") == (1009, "right")
    assert compared(data, data + bytes(5), strict=True) == (1000, "right")
    assert compared(data, data + b"x", length=1000) == (None, "")
    assert compared(b"", b"") == (None, "")


def test_a_range_that_one_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParam, match="fewer than 11"):
        compare(FileSource(file_of(tmp_path / "in", b"x" * 10)), StreamSource(io.BytesIO(b""), "pipe"), 11)


# --- Patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0xaa", "170", "0xdeadbeef", "0x1", "stamp", "stamp:7", "random", "random:0x10"])
@given(offset=st.integers(0, 100_000), length=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_part_of_a_pattern_is_that_part_of_it(text: str, offset: int, length: int) -> None:
    pattern = parse_pattern(text)
    whole = pattern.content(0, offset + length)
    assert len(whole) == offset + length
    assert pattern.content(offset, length) == whole[offset:]


def test_patterns_are_told_apart() -> None:
    texts = ["0xaa", "0xab", "stamp", "stamp:1", "random", "random:1"]
    assert len({parse_pattern(text).content(512, 512) for text in texts}) == len(texts)
    assert parse_pattern("0xdeadbeef").content(0, 6) == bytes.fromhex("deadbeefdead")
    assert parse_pattern("170").content(0, 1) == b"\xaa"


@pytest.mark.parametrize("text", ["", "0x", "0xg", "256", "-1", "stamps", "random:x", "random:-1", "stamp:4294967296"])
def test_other_text_is_no_pattern(text: str) -> None:
    with pytest.raises(InvalidParam, match="is no pattern"):
        parse_pattern(text)


def test_a_pattern_is_written_and_found_and_a_misplaced_sector_is_explained() -> None:
    with disk_of() as (disk, device):
        pattern = parse_pattern("stamp:3")
        write_pattern(disk, 100, SIZE - 300, pattern)
        assert check_pattern(disk, 100, SIZE - 300, pattern) is None
        device.data[5 * 512 : 6 * 512] = device.data[9 * 512 : 10 * 512]
        found = check_pattern(disk, 100, SIZE - 300, pattern)
        assert found is not None
        assert found.offset // 512 == 5
        assert found.explanation == "it holds what belongs at sector 9"
        assert "sector 5" in str(found)
        again = check_pattern(disk, 3 * 512, 512, parse_pattern("stamp:4"))
        assert again is not None
        assert again.explanation == "it holds what belongs at sector 3, with seed 3"


@pytest.mark.parametrize("sector", [b"hwloop:", b"hwloop:zz", b"hwloop:1:2:3\n", b"hwloop:00000000:xyz\n", b"\xff" * 9])
def test_a_stamp_that_is_damaged_is_not_explained(sector: bytes) -> None:
    assert parse_pattern("stamp").explain(sector) == ""


# --- Words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word", ["qemu:disk.img", "fake:16M", "0000:00:05.0", "00:05.0", "vdz", "/dev/vdz", "mmio:0x10", "pci:00:05.0"]
)
def test_a_word_names_a_device(word: str) -> None:
    assert target_of(word) is not None
    assert path_of(word) is None


@pytest.mark.parametrize(
    ("word", "path"),
    [("disk.img", "disk.img"), ("./vdz", "./vdz"), ("file:vdz", "vdz"), ("file:qemu:x", "qemu:x"), ("out", "out"),
     ("/tmp/x", "/tmp/x"), ("/dev/zero", "/dev/zero"), ("a:b", "a:b"), ("-", None)],
)  # fmt: skip
def test_a_word_names_a_file(word: str, path: str | None) -> None:
    assert target_of(word) is None
    assert path_of(word) == path


def test_the_same_thing_twice_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path / "disk.img", b"x")
    os.link(path, tmp_path / "other")
    for first, second in ((path, path), (f"qemu:{path}", path), (str(tmp_path / "other"), f"qemu:{path}?packed=on")):
        with pytest.raises(InvalidParam, match="are the same"):
            check_different(first, second)
    check_different("-", "-")
    check_different(path, str(tmp_path / "new"))


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParam, match="is a folder"):
        sink.open_path(str(tmp_path))
    with pytest.raises(InvalidParam, match="is a folder"):
        source.open_path(str(tmp_path))
    with pytest.raises(SetupError, match="No such file"):
        source.open_path(str(tmp_path / "none"))
    with pytest.raises(SetupError, match="cannot write"):
        sink.open_path(str(tmp_path / "none" / "out")).begin()


def test_a_character_device_is_a_pipe() -> None:
    with source.open_path("/dev/zero") as zeros, sink.open_path("/dev/null") as nowhere:
        assert copy(zeros, nowhere, Job(length=SIZE)).length == SIZE
    assert isinstance(zeros, StreamSource)
    assert isinstance(nowhere, Sink)
