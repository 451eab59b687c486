"""Registers behind files: where the window lies, who owns the descriptor, and what the kernel's refusals become."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmio import FdRegion, MappedFile, MmioError, RegionBoundsError, RegionReadOnly

PAGE = mmap.PAGESIZE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two pages of which every byte says where it is, in 16-bit counts."""
    file = tmp_path / "resource0"
    file.write_bytes(b"".join(i.to_bytes(2, "little") for i in range(PAGE)))
    return file


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    number = os.open(path, os.O_RDWR)
    yield number
    os.close(number)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("offset", [0, 2, 0x200, PAGE - 2, PAGE, PAGE + 0x10])
def test_a_mapped_window_may_start_anywhere_in_a_page(path: Path, offset: int) -> None:
    with MappedFile(path, offset, 0x20) as region:
        assert region.read16(0) == offset // 2
        assert region.read16(0x1E) == offset // 2 + 15
        assert region.address % PAGE == offset % PAGE


def test_a_mapped_window_may_cross_a_page(path: Path) -> None:
    with MappedFile(path, PAGE - 8, 16) as region:
        assert [region.read16(offset) for offset in (6, 8)] == [PAGE // 2 - 1, PAGE // 2]


def test_a_given_descriptor_stays_open_and_a_path_leaves_none_behind(path: Path, fd: int) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for source in (fd, path):
        MappedFile(source, 0, PAGE).close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert is_open(fd)


def test_a_mapping_outlives_the_descriptor(path: Path) -> None:
    number = os.open(path, os.O_RDWR)
    with MappedFile(number, 0, PAGE) as region:
        os.close(number)
        assert region.read16(8) == 4


def test_closing_unmaps(path: Path) -> None:
    region = MappedFile(path, 0, PAGE)
    assert str(path) in Path("/proc/self/maps").read_text()
    region.close()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_dropping_the_last_reference_unmaps(path: Path) -> None:
    region = MappedFile(path, 0, PAGE)
    assert region.read8(0) == 0
    del region
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_read_only_mapping_reads_and_refuses_to_write(path: Path) -> None:
    path.chmod(0o444)
    with MappedFile(path, 0, PAGE, writable=False) as region:
        assert region.read16(2) == 1
        with pytest.raises(RegionReadOnly, match="writable=True") as caught:
            region.write16(2, 7)
        assert caught.value.errno == errno.EACCES
        assert region.read16(2) == 1


def test_a_read_only_descriptor_cannot_be_mapped_for_writing(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(MmioError, match="cannot be mapped") as caught:
            MappedFile(number, 0, PAGE)
        assert caught.value.errno == errno.EACCES
    finally:
        os.close(number)


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 2 * PAGE + 1), (2 * PAGE, 4), (-4, 4), (0, 0), (0, -1), (1 << 63, 4), (1 << 70, 1 << 70)]
)
def test_a_mapped_window_outside_the_file_is_refused(path: Path, offset: int, size: int) -> None:
    with pytest.raises(RegionBoundsError, match="file window"):
        MappedFile(path, offset, size)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MmioError, match="resource9 cannot be opened: No such file") as caught:
        MappedFile(tmp_path / "resource9", 0, 4)
    assert caught.value.errno == errno.ENOENT


def test_a_file_that_cannot_be_mapped_is_named_with_the_kernels_errno() -> None:
    with pytest.raises(MmioError, match="/dev/null cannot be mapped") as caught:
        MappedFile("/dev/null", 0, 4)
    assert caught.value.errno == errno.ENODEV


def test_every_access_of_a_descriptor_region_is_one_transfer_of_its_width(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, int]] = []
    pread, pwrite = os.pread, os.pwrite

    def noted_pread(fd: int, length: int, offset: int) -> bytes:
        seen.append(("read", length, offset))
        return pread(fd, length, offset)

    def noted_pwrite(fd: int, data: bytes, offset: int) -> int:
        seen.append(("write", len(data), offset))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pread", noted_pread)
    monkeypatch.setattr(os, "pwrite", noted_pwrite)
    region = FdRegion(fd, 0x100, 0x40)
    region.read8(1)
    region.write16(2, 1)
    region.read32(4)
    region.write64(8, 1)
    region.write64_hi_lo(0x10, 1)
    transfers = [("read", 1, 0x101), ("write", 2, 0x102), ("read", 4, 0x104), ("write", 8, 0x108)]
    assert seen == [*transfers, ("write", 4, 0x114), ("write", 4, 0x110)]


def test_closing_a_descriptor_region_leaves_the_descriptor_open(fd: int) -> None:
    FdRegion(fd, 0, 4).close()
    assert is_open(fd)


def test_alignment_counts_from_the_start_of_the_file(fd: int) -> None:
    region = FdRegion(fd, 6, 0x10)
    assert region.read32(2) == 5 << 16 | 4
    with pytest.raises(MmioError, match="starts at 0x6 is not aligned to 4"):
        region.read32(4)


@pytest.mark.parametrize(("offset", "size"), [(-1, 4), (0, 0), (1 << 63, 4), ((1 << 63) - 4, 8)])
def test_a_descriptor_window_that_no_file_has_is_refused(fd: int, offset: int, size: int) -> None:
    with pytest.raises(RegionBoundsError):
        FdRegion(fd, offset, size)


def test_a_read_that_is_cut_short_is_an_error(fd: int) -> None:
    region = FdRegion(fd, 2 * PAGE - 4, 16)
    with pytest.raises(MmioError, match=r"read of 8 bytes at offset 0x4 .* failed: only 0 bytes came") as caught:
        region.read64(4)
    assert caught.value.errno == errno.EIO


def test_a_write_that_is_cut_short_is_an_error(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 2)
    with pytest.raises(MmioError, match=r"write of 4 bytes at offset 0x8 .* failed: only 2 bytes went") as caught:
        FdRegion(fd, 0, 16).write32(8, 1)
    assert caught.value.errno == errno.EIO


def fails_with(code: int) -> Callable[..., int]:
    def fail(*arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.ENODEV, "the device is gone"), (errno.EIO, "decoding"), (errno.EINVAL, "width"), (errno.ENOMEM, "memory")],
)
@pytest.mark.parametrize("verb", ["read", "write"])
def test_the_kernels_errno_is_kept_and_explained(
    fd: int, monkeypatch: pytest.MonkeyPatch, verb: str, code: int, advice: str
) -> None:
    monkeypatch.setattr(os, "pread", fails_with(code))
    monkeypatch.setattr(os, "pwrite", fails_with(code))
    region = FdRegion(fd, 0, 16)
    with pytest.raises(MmioError, match=rf"{verb} of 2 bytes at offset 0x6 .*{advice}") as caught:
        region.read16(6) if verb == "read" else region.write16(6, 1)
    assert caught.value.errno == code


def test_real_refusals_of_the_kernel_come_through() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(MmioError) as caught:
            FdRegion(full, 0, 8).write32(0, 1)
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(MmioError, match="not opened for that direction") as caught:
            FdRegion(full, 0, 8).read32(0)
        assert caught.value.errno == errno.EBADF
    finally:
        os.close(full)
