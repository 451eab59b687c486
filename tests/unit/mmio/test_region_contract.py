"""What every kind of region promises: widths, byte order, bounds, alignment, values, closing."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mmio import (
    DevMemWindow,
    FakeRegion,
    FdRegion,
    LoggingRegion,
    MappedFile,
    MappedRegion,
    MisalignedAccess,
    MmioError,
    Region,
    RegionBoundsError,
    RegionClosed,
    ValueRangeError,
    Window,
    address_of,
    read_exact,
    write_exact,
)

SIZE = 64
AT = 16
"""A multiple of 8, in the region and on the bus, in every kind below."""

PLAIN = {"8": 1, "16": 2, "32": 4, "64": 8}
ALL = PLAIN | {"64_lo_hi": 8, "64_hi_lo": 8}
ALIGNED_TO = PLAIN | {"64_lo_hi": 4, "64_hi_lo": 4}
PATTERN = 0x8877665544332211


class Opened(NamedTuple):
    """A region, and the bytes behind it as something other than the region sees them."""

    region: Region
    behind: Callable[[], bytes]


def open_mapped(directory: Path, stack: ExitStack) -> Opened:
    memory = mmap.mmap(-1, 4096)
    return Opened(MappedRegion(address_of(memory) + 8, SIZE, memory), lambda: memory[8 : 8 + SIZE])


def open_mapped_file(directory: Path, stack: ExitStack) -> Opened:
    path, behind = make_file(directory, 4096 + 128)
    return Opened(MappedFile(path, 4096 + 128, SIZE), behind)


def open_fd(directory: Path, stack: ExitStack) -> Opened:
    path, behind = make_file(directory, 24)
    fd = os.open(path, os.O_RDWR)
    stack.callback(os.close, fd)
    return Opened(FdRegion(fd, 24, SIZE), behind)


def open_devmem(directory: Path, stack: ExitStack) -> Opened:
    path, behind = make_file(directory, 4096 + 0x200)
    return Opened(DevMemWindow(4096 + 0x200, SIZE, path), behind)


def open_fake(directory: Path, stack: ExitStack) -> Opened:
    fake = FakeRegion(SIZE)
    return Opened(fake, lambda: fake.peek(0, SIZE).to_bytes(SIZE, "little"))


def open_logging(directory: Path, stack: ExitStack) -> Opened:
    fake, behind = open_fake(directory, stack)
    return Opened(LoggingRegion(fake), behind)


def open_window(directory: Path, stack: ExitStack) -> Opened:
    fake = FakeRegion(3 * SIZE)
    return Opened(Window(fake, SIZE, SIZE), lambda: fake.peek(SIZE, SIZE).to_bytes(SIZE, "little"))


def open_window_of_mapped(directory: Path, stack: ExitStack) -> Opened:
    memory = mmap.mmap(-1, 4096)
    region = MappedRegion(address_of(memory), 4096, memory)
    return Opened(Window(Window(region, 8, 256), 8, SIZE), lambda: memory[16 : 16 + SIZE])


KINDS = {
    function.__name__.removeprefix("open_"): function
    for function in (
        open_mapped,
        open_mapped_file,
        open_fd,
        open_devmem,
        open_fake,
        open_logging,
        open_window,
        open_window_of_mapped,
    )
}


def make_file(directory: Path, offset: int) -> tuple[Path, Callable[[], bytes]]:
    """A file of two pages and a bit, and a reader of the SIZE bytes at `offset`."""
    path = directory / "registers"
    path.write_bytes(bytes(3 * 4096))
    return path, lambda: path.read_bytes()[offset : offset + SIZE]


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    with ExitStack() as stack:
        opened = KINDS[request.param](tmp_path, stack)
        stack.callback(opened.region.close)
        yield opened


def read(region: Region, suffix: str, offset: Any) -> int:
    value: int = getattr(region, f"read{suffix}")(offset)
    return value


def write(region: Region, suffix: str, offset: Any, value: Any) -> None:
    getattr(region, f"write{suffix}")(offset, value)


def value_of(suffix: str) -> int:
    return PATTERN & (1 << 8 * ALL[suffix]) - 1


def test_it_is_a_region_and_knows_its_size(opened: Opened) -> None:
    assert isinstance(opened.region, Region)
    assert opened.region.size == SIZE


@pytest.mark.parametrize("suffix", ALL)
def test_what_is_written_is_read_back(opened: Opened, suffix: str) -> None:
    write(opened.region, suffix, AT, value_of(suffix))
    assert read(opened.region, suffix, AT) == value_of(suffix)


@pytest.mark.parametrize("suffix", ALL)
def test_a_write_changes_its_own_bytes_only_and_lowest_first(opened: Opened, suffix: str) -> None:
    write(opened.region, suffix, AT, value_of(suffix))
    expected = bytearray(SIZE)
    expected[AT : AT + ALL[suffix]] = value_of(suffix).to_bytes(ALL[suffix], "little")
    assert opened.behind() == expected


@pytest.mark.parametrize("suffix", ALL)
def test_a_read_takes_the_lowest_byte_first(opened: Opened, suffix: str) -> None:
    for i in range(8):
        opened.region.write8(AT + i, 0x11 * (i + 1))
    assert read(opened.region, suffix, AT) == value_of(suffix)


@pytest.mark.parametrize("suffix", ALL)
def test_the_whole_range_of_values_fits(opened: Opened, suffix: str) -> None:
    for value in (0, 1, (1 << 8 * ALL[suffix]) - 1):
        write(opened.region, suffix, AT, value)
        assert read(opened.region, suffix, AT) == value


@pytest.mark.parametrize("suffix", ALL)
def test_the_last_register_is_inside(opened: Opened, suffix: str) -> None:
    last = SIZE - ALL[suffix]
    write(opened.region, suffix, last, value_of(suffix))
    assert read(opened.region, suffix, last) == value_of(suffix)


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize("offset", [-1, -8, SIZE, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 64, -(1 << 70)])
def test_outside_is_refused_and_named(opened: Opened, suffix: str, offset: int) -> None:
    with pytest.raises(RegionBoundsError, match=f"{ALL[suffix]} bytes at offset {offset:#x}") as caught:
        read(opened.region, suffix, offset)
    assert (caught.value.offset, caught.value.width, caught.value.size) == (offset, ALL[suffix], SIZE)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(RegionBoundsError):
        write(opened.region, suffix, offset, 0)


@pytest.mark.parametrize("suffix", ALL)
def test_an_access_that_only_begins_inside_is_refused(opened: Opened, suffix: str) -> None:
    offset = SIZE - ALL[suffix] + 1
    with pytest.raises(RegionBoundsError, match=f"offset {offset:#x}"):
        read(opened.region, suffix, offset)
    with pytest.raises(RegionBoundsError):
        write(opened.region, suffix, offset, 0)


@pytest.mark.parametrize("suffix", [suffix for suffix in ALL if suffix != "8"])
def test_every_misaligned_offset_is_refused(opened: Opened, suffix: str) -> None:
    for beyond in range(1, ALIGNED_TO[suffix]):
        with pytest.raises(MisalignedAccess) as caught:
            read(opened.region, suffix, AT + beyond)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(MisalignedAccess):
            write(opened.region, suffix, AT + beyond, 0)


def test_a_pair_needs_the_alignment_of_its_halves_only(opened: Opened) -> None:
    opened.region.write64_lo_hi(AT + 4, PATTERN)
    assert opened.region.read64_hi_lo(AT + 4) == PATTERN


@pytest.mark.parametrize("suffix", ALL)
def test_a_value_that_does_not_fit_is_refused_and_named(opened: Opened, suffix: str) -> None:
    for value in (-1, 1 << 8 * ALL[suffix], 1 << 200):
        with pytest.raises(ValueRangeError, match=f"value {value:#x} ") as caught:
            write(opened.region, suffix, AT, value)
        assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("suffix", ALL)
def test_what_is_no_integer_is_refused(opened: Opened, suffix: str) -> None:
    with pytest.raises(TypeError):
        read(opened.region, suffix, 4.0)
    with pytest.raises(TypeError):
        write(opened.region, suffix, AT, 1.0)
    with pytest.raises(TypeError):
        write(opened.region, suffix, AT, None)


def test_a_refused_write_changes_nothing(opened: Opened) -> None:
    for suffix, offset, value in (
        ("64_lo_hi", SIZE - 4, PATTERN),
        ("64_hi_lo", -4, PATTERN),
        ("64_lo_hi", AT, 1 << 64),
        ("64_hi_lo", AT + 2, PATTERN),
        ("32", AT + 2, 1),
        ("8", AT, 256),
    ):
        with pytest.raises(MmioError):
            write(opened.region, suffix, offset, value)
    assert opened.behind() == bytes(SIZE)


@pytest.mark.parametrize("suffix", ALL)
def test_a_closed_region_refuses_every_access(opened: Opened, suffix: str) -> None:
    opened.region.close()
    with pytest.raises(RegionClosed) as caught:
        read(opened.region, suffix, AT)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(RegionClosed):
        write(opened.region, suffix, AT, 0)


def test_closing_twice_is_allowed(opened: Opened) -> None:
    opened.region.close()
    opened.region.close()


def test_leaving_the_context_closes_it(opened: Opened) -> None:
    region: Any = opened.region
    with region as entered:
        assert entered is region
        assert not region.closed
    assert region.closed


@pytest.mark.parametrize("suffix", PLAIN)
def test_the_width_can_be_data(opened: Opened, suffix: str) -> None:
    write_exact(opened.region, AT, PLAIN[suffix], value_of(suffix))
    assert read_exact(opened.region, AT, PLAIN[suffix]) == value_of(suffix)
    assert opened.behind()[AT + PLAIN[suffix] :].strip(b"\0") == b""


@pytest.mark.parametrize("width", [0, 3, 5, 16])
def test_a_width_that_no_bus_has_is_refused(opened: Opened, width: int) -> None:
    with pytest.raises(KeyError):
        read_exact(opened.region, AT, width)
    with pytest.raises(KeyError):
        write_exact(opened.region, AT, width, 0)
