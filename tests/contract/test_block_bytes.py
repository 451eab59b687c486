"""A disk as bytes: any offset, any length, and as a file, through whatever door it is reached."""

from __future__ import annotations

import errno
import io
import random
import shutil
import tarfile
import threading
from collections.abc import Iterator

import pytest

import hwloop
from hwloop.device.byte_range import RangeLock
from hwloop.errors import DeviceClosed, InvalidParam, ReadOnlyDisk
from tests.contract.door import Door
from tests.contract.doors import DOORS
from tests.contract.test_block import MIB, pattern

_QEMU = ["qtest-q35", "qtest-microvm-1", "vhost-user-qsd"]


@pytest.fixture(
    params=[
        "fake",
        "pci-legacy",
        "mmio-2",
        "svirtb",
        "vhost-user",
        *(pytest.param(n, marks=pytest.mark.qemu) for n in _QEMU),
    ]
)
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    door = DOORS[request.param]()
    yield door
    door.close()


# --- pread and pwrite -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [512, 4096])
def test_random_bytes_agree_with_a_model(door: Door, block_size: int) -> None:
    rng = random.Random(block_size)
    size = MIB
    disk = door.open(size, block_size=block_size)
    model = bytearray(size)
    for _ in range(300):
        length, offset = rng.choice((1, 2, 511, 513, 4096, 5000, 70_000)), rng.randrange(size)
        if rng.random() < 0.5:
            data = rng.randbytes(length)
            count = disk.pwrite(data, offset)
            assert count == min(length, size - offset)
            model[offset : offset + count] = data[:count]
        elif rng.random() < 0.5:
            assert disk.pread(length, offset) == model[offset : offset + length]
        else:
            buffer = bytearray(length)
            count = disk.preadinto(buffer, offset)
            assert count == min(length, size - offset)
            assert buffer == bytes(model[offset : offset + count]).ljust(length, b"\0")
    assert door.backing(0, size) == model


def test_the_end_of_the_disk_is_what_it_is_on_linux(door: Door) -> None:
    disk = door.open(MIB)
    assert disk.pwrite(b"end", MIB - 2) == 2
    assert disk.pread(100, MIB - 2) == b"en"
    assert disk.pread(100, MIB) == disk.pread(100, 1 << 70) == b""
    assert disk.pread(0, 0) == b""
    assert disk.preadinto(bytearray(4), MIB) == 0
    assert disk.pwrite(b"", MIB) == 0
    for offset in (MIB, MIB + 1, 1 << 70):
        with pytest.raises(InvalidParam) as caught:
            disk.pwrite(b"x", offset)
        assert caught.value.errno == errno.ENOSPC


def test_what_makes_no_sense_is_einval(door: Door) -> None:
    disk = door.open(MIB)
    for attempt in (
        lambda: disk.pread(-1, 0),
        lambda: disk.pread(1, -1),
        lambda: disk.pwrite(b"x", -1),
        lambda: disk.preadinto(bytes(4), 0),
    ):
        with pytest.raises(InvalidParam) as caught:
            attempt()
        assert caught.value.errno == errno.EINVAL


def test_threads_that_write_parts_of_one_block_lose_nothing(door: Door) -> None:
    disk = door.open(MIB, block_size=512)
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(30):
                disk.pwrite(bytes([number, turn]) * 8, number * 16)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert disk.pread(144, 0) == bytes(16) + b"".join(bytes([number, 29]) * 8 for number in range(1, 9))


# --- The raw file -----------------------------------------------------------------------------------------------------


def test_it_is_a_file_with_a_position(door: Door) -> None:
    raw = door.open(MIB).raw
    assert isinstance(raw, io.RawIOBase)
    assert (raw.readable(), raw.writable(), raw.seekable(), raw.mode) == (True, True, True, "rb+")
    assert raw.write(b"hello") == 5
    assert raw.tell() == 5
    assert raw.seek(-3, io.SEEK_END) == MIB - 3
    assert raw.read() == bytes(3)
    assert raw.read(1) == b""
    assert raw.seek(-MIB, io.SEEK_CUR) == 0
    assert raw.read(5) == b"hello"
    assert raw.seek(2 * MIB) == 2 * MIB
    assert raw.read(5) == b""
    with pytest.raises(OSError, match="end of the disk") as caught:
        raw.write(b"x")
    assert caught.value.errno == errno.ENOSPC
    for attempt in (lambda: raw.seek(-1), lambda: raw.seek(0, 7), lambda: raw.truncate(0)):
        with pytest.raises(InvalidParam):
            attempt()


def test_a_buffered_file_on_it_keeps_what_is_written(door: Door) -> None:
    disk = door.open(MIB)
    with io.BufferedRandom(disk.raw, 64 << 10) as file:
        for number in range(0, 2000, 3):
            file.seek(number * 100)
            file.write(b"%06d" % number)
        file.seek(300)
        assert file.read(6) == b"000003"
    assert disk.pread(6, 1998 * 100) == b"001998"
    assert not disk.raw.closed, "another one, for the disk is open"


def test_shutil_copies_to_it_and_from_it(door: Door) -> None:
    disk = door.open(MIB)
    shutil.copyfileobj(io.BytesIO(pattern(MIB)), disk.raw)
    copy = io.BytesIO()
    disk.raw.seek(0)
    shutil.copyfileobj(disk.raw, copy, 100_000)
    assert copy.getvalue() == pattern(MIB)


def test_an_archive_is_written_to_it_and_read_back(door: Door) -> None:
    disk = door.open(MIB)
    with io.BufferedRandom(disk.raw) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(20):
            member = tarfile.TarInfo(f"folder/file{number}")
            member.size = number * 1000
            archive.addfile(member, io.BytesIO(pattern(number * 1000)))
    with io.BufferedReader(disk.raw) as reader, tarfile.open(fileobj=reader) as archive:
        assert len(archive.getnames()) == 20
        found = archive.extractfile("folder/file19")
        assert found is not None
        assert found.read() == pattern(19_000)


def test_a_disk_that_is_full_stops_a_copy(door: Door) -> None:
    disk = door.open(MIB)
    with pytest.raises(OSError, match="end of the disk") as caught:
        shutil.copyfileobj(io.BytesIO(pattern(MIB + 1)), disk.raw)
    assert caught.value.errno == errno.ENOSPC
    assert disk.pread(MIB, 0) == pattern(MIB + 1)[:MIB]


def test_a_read_only_disk_is_a_file_that_cannot_be_written() -> None:
    with hwloop.open("fake:1M?read-only=on") as disk:
        raw = disk.raw  # type: ignore[attr-defined]
        assert (raw.writable(), raw.mode) == (False, "rb")
        with pytest.raises(ReadOnlyDisk):
            raw.write(b"x")
        with pytest.raises(OSError, match="writable"):
            io.BufferedRandom(raw)
        with io.BufferedReader(raw) as reader:
            assert reader.read(10) == bytes(10)


def test_a_closed_file_is_closed_and_so_is_one_of_a_closed_disk(door: Door) -> None:
    disk = door.open(MIB)
    raw = disk.raw
    raw.close()
    for attempt in (lambda: raw.read(1), lambda: raw.write(b"x"), raw.tell, raw.writable, lambda: raw.seek(0)):
        with pytest.raises(ValueError, match="closed file"):
            attempt()
    other = disk.raw
    disk.close()
    with pytest.raises(DeviceClosed):
        other.read(1)


def test_ranges_that_do_not_overlap_do_not_wait_for_one_another() -> None:
    lock = RangeLock()
    entered = threading.Event()

    def enter(start: int, end: int) -> None:
        with lock.hold(start, end):
            entered.set()

    with lock.hold(0, 100), lock.hold(100, 200):
        other = threading.Thread(target=enter, args=(200, 300))
        other.start()
        assert entered.wait(30)
        other.join()
        entered.clear()
        waiting = threading.Thread(target=enter, args=(150, 250))
        waiting.start()
        assert not entered.is_set()
    assert entered.wait(30)
    waiting.join()
