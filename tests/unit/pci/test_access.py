from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pci import (
    AbsentConfigAccess,
    BytesConfigAccess,
    ConfigAccess,
    ConfigAccessError,
    ConfigSpace,
    DeviceFunction,
    FdConfigAccess,
    IoBar,
    MemoryBar,
    MemoryBarType,
    PciError,
    SysfsConfigAccess,
    SysfsRootAccess,
    new_function,
)

DATA = bytes(range(256))


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def fd(config_file: Path) -> Iterator[int]:
    number = os.open(config_file, os.O_RDWR)
    yield number
    os.close(number)


class Calls:
    """Counts preads and pwrites: (position, bytes) of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, int, int]] = []
        pread, pwrite = os.pread, os.pwrite

        def counting_pread(fd: int, count: int, position: int) -> bytes:
            self.made.append(("read", position, count))
            return pread(fd, count, position)

        def counting_pwrite(fd: int, data: bytes, position: int) -> int:
            self.made.append(("write", position, len(data)))
            return pwrite(fd, data, position)

        monkeypatch.setattr(os, "pread", counting_pread)
        monkeypatch.setattr(os, "pwrite", counting_pwrite)


# --- What every way of access has in common ---------------------------------------------------------------------------


@pytest.fixture(params=["bytes", "sysfs", "fd", "sysfs root"])
def access(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConfigAccess]:
    """The bytes 0x00 to 0xff, every one of which can be written."""
    folder = tmp_path / "bus/pci/devices/0000:00:05.0"
    folder.mkdir(parents=True)
    path = folder / "config"
    if request.param == "fd":
        path.write_bytes(b"\xee" * 16 + DATA + b"\xee" * 16)
        number = os.open(path, os.O_RDWR)
        yield FdConfigAccess(number, 16, 256)
        os.close(number)
        return
    path.write_bytes(DATA)
    if request.param == "bytes":
        yield BytesConfigAccess(DATA, dict.fromkeys(range(256), 0xFF))
    elif request.param == "sysfs":
        with SysfsConfigAccess(path) as opened:
            yield opened
    else:
        yield SysfsRootAccess(tmp_path).config(DeviceFunction(0, 5, 0))


@pytest.mark.parametrize(("width", "value"), [(1, 0x3C), (2, 0x3D3C), (4, 0x3F3E3D3C)])
def test_reads_are_little_endian(access: ConfigAccess, width: int, value: int) -> None:
    assert access.size == 256
    assert access.read(0x3C, width) == value


@pytest.mark.parametrize(("width", "expected"), [(1, "443d3e3f"), (2, "44333e3f"), (4, "44332211")])
def test_a_write_changes_the_bytes_of_its_width_and_no_other(access: ConfigAccess, width: int, expected: str) -> None:
    access.write(0x3C, width, 0x11223344 & (1 << 8 * width) - 1)

    assert ConfigSpace(access).read_raw() == DATA[:0x3C] + bytes.fromhex(expected) + DATA[0x40:]


@pytest.mark.parametrize(
    ("offset", "width"), [(0, 3), (0, 8), (0, 0), (1, 2), (2, 4), (256, 1), (254, 4), (-1, 1), (-4, 4)]
)
def test_an_access_that_cannot_be_is_refused(access: ConfigAccess, offset: int, width: int) -> None:
    before = ConfigSpace(access).read_raw()
    for attempt in (lambda: access.read(offset, width), lambda: access.write(offset, width, 0)):
        with pytest.raises(ConfigAccessError) as caught:
            attempt()
        assert caught.value.errno == errno.EINVAL
    assert ConfigSpace(access).read_raw() == before


def test_a_value_too_large_is_refused(access: ConfigAccess) -> None:
    with pytest.raises(ConfigAccessError, match="does not fit"):
        access.write(0x3C, 1, 0x100)


# --- sysfs ------------------------------------------------------------------------------------------------------------


def test_each_register_is_one_access_of_its_width_to_the_file(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    with SysfsConfigAccess(config_file) as access:
        access.read(0x06, 2)
        access.write(0x04, 2, 0x0406)
        access.read(0x10, 4)
    assert calls.made == [("read", 0x06, 2), ("write", 0x04, 2), ("read", 0x10, 4)]


def test_opening_reads_nothing(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    SysfsConfigAccess(config_file).close()
    assert calls.made == []


def test_the_file_is_opened_for_writing_by_the_first_write_only(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    real_open = os.open

    def noting_open(path: str, flags: int) -> int:
        modes.append(flags & os.O_ACCMODE)
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", noting_open)
    with SysfsConfigAccess(config_file) as access:
        access.read(0, 4)
        assert modes == [os.O_RDONLY]
        access.write(0x3C, 1, 1)
        access.write(0x3C, 1, 2)
        assert modes == [os.O_RDONLY, os.O_RDWR]


def test_read_only_refuses_writes_and_says_how_to_allow_them(config_file: Path) -> None:
    with SysfsConfigAccess(config_file, read_only=True) as access:
        with pytest.raises(ConfigAccessError, match="read_only=False") as caught:
            access.write(0x3C, 1, 1)
        assert caught.value.errno == errno.EACCES
        assert access.read(0x3C, 1) == 0x3C


def test_closing_twice_is_harmless_and_closes_both_descriptors(config_file: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    access = SysfsConfigAccess(config_file)
    access.write(0x3C, 1, 1)
    access.close()
    access.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_after_close_nothing_is_opened_again(config_file: Path) -> None:
    access = SysfsConfigAccess(config_file)
    access.close()
    for attempt in (lambda: access.read(0, 4), lambda: access.write(0x3C, 1, 1)):
        with pytest.raises(ConfigAccessError, match="closed") as caught:
            attempt()
        assert caught.value.errno == errno.EBADF
    assert config_file.read_bytes() == DATA


def test_a_device_that_is_not_there_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigAccessError, match="nowhere/config: cannot be opened: No such file") as caught:
        SysfsConfigAccess(tmp_path / "nowhere/config")
    assert caught.value.errno == errno.ENOENT


def _cut_at(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel does for a process without CAP_SYS_ADMIN: the size of the file is whole, reads end at 64."""
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: pread(fd, max(0, min(count, limit - at)), at))


def test_reading_past_64_bytes_without_the_right_says_to_run_as_root(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cut_at(64, monkeypatch)
    with SysfsConfigAccess(config_file) as access:
        assert access.read(0x3C, 4) == 0x3F3E3D3C
        with pytest.raises(ConfigAccessError, match=r"\(0x40\); run as root") as caught:
            access.read(0x40, 4)
    assert caught.value.errno == errno.EACCES


def test_a_capability_list_that_may_not_be_read_says_to_run_as_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = new_function(1, 2)
    fake.declare_capability(0x40, 9, b"\0\0")
    path = tmp_path / "config"
    path.write_bytes(fake.data)
    _cut_at(64, monkeypatch)

    with SysfsConfigAccess(path) as access, pytest.raises(ConfigAccessError, match="run as root"):
        list(ConfigSpace(access).capabilities())


def test_a_short_read_of_the_header_is_an_error_of_another_kind(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cut_at(0, monkeypatch)
    with SysfsConfigAccess(config_file) as access, pytest.raises(ConfigAccessError, match="moved 0") as caught:
        access.read(0, 4)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("code", [errno.ENODEV, errno.EPERM])
def test_the_kernels_refusal_keeps_its_errno(config_file: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pread", refuse)
    monkeypatch.setattr(os, "pwrite", refuse)
    with SysfsConfigAccess(config_file) as access:
        for attempt in (lambda: access.read(0, 4), lambda: access.write(4, 2, 0)):
            with pytest.raises(ConfigAccessError, match=os.strerror(code)) as caught:
                attempt()
            assert caught.value.errno == code


def test_a_write_cut_short_is_an_error(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 1)
    with SysfsConfigAccess(config_file) as access, pytest.raises(ConfigAccessError, match="write of 2 bytes moved 1"):
        access.write(4, 2, 0)


# --- A window of a descriptor -----------------------------------------------------------------------------------------


def test_the_window_starts_at_its_offset_and_stays_inside(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    access = FdConfigAccess(fd, 0x80, 0x40)

    assert access.read(0x04, 2) == 0x8584
    with pytest.raises(ConfigAccessError):
        access.read(0x40, 4)
    with pytest.raises(ConfigAccessError):
        access.write(-4, 4, 0)
    assert calls.made == [("read", 0x84, 2)]


def test_the_window_does_not_own_the_descriptor(config_file: Path) -> None:
    number = os.open(config_file, os.O_RDONLY)
    access = FdConfigAccess(number, 0, 256)
    del access
    os.close(number)  # would raise if it had been closed


def test_a_descriptor_that_was_closed_is_a_typed_error(config_file: Path) -> None:
    number = os.open(config_file, os.O_RDONLY)
    access = FdConfigAccess(number, 0, 256)
    os.close(number)

    with pytest.raises(ConfigAccessError) as caught:
        access.read(0, 4)
    assert caught.value.errno == errno.EBADF


def test_a_window_past_the_end_of_the_file_reads_short(fd: int) -> None:
    with pytest.raises(ConfigAccessError, match="read of 4 bytes moved 0") as caught:
        FdConfigAccess(fd, 0x100, 0x40).read(0, 4)
    assert caught.value.errno == errno.EIO


def test_a_write_to_the_window_cut_short_is_an_error(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 1)
    with pytest.raises(ConfigAccessError, match="write of 2 bytes moved 1"):
        FdConfigAccess(fd, 0, 256).write(4, 2, 0)


# --- Nothing there ----------------------------------------------------------------------------------------------------


def test_where_no_function_is_reads_give_ones_and_writes_are_lost() -> None:
    absent = AbsentConfigAccess(DeviceFunction(0, 9, 0))

    absent.write(0x10, 4, 0)

    assert [absent.read(0, width) for width in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFF_FFFF]
    assert str(absent) == "0000:00:09.0"


# --- The fake ---------------------------------------------------------------------------------------------------------


def test_only_bits_of_the_mask_change() -> None:
    fake = BytesConfigAccess(b"\xaa" * 16, {4: 0x0F, 5: 0xF0})

    fake.write(4, 4, 0x5555_5555)

    assert fake.data[4:8] == bytes.fromhex("a55aaaaa")


def test_without_masks_only_what_every_function_has_can_be_written() -> None:
    fake = new_function(0x1234, 0x5678)
    for offset in range(0, 256, 4):
        fake.write(offset, 4, 0xFFFF_FFFF)

    changed = {offset: byte for offset, byte in enumerate(fake.data) if byte and offset > 3}
    assert changed == {0x04: 0xFF, 0x05: 0x07, 0x0C: 0xFF, 0x3C: 0xFF}
    assert fake.data[:4] == bytes.fromhex("34127856")


def test_the_fake_copies_the_bytes_it_is_given() -> None:
    data = bytes(256)
    fake = BytesConfigAccess(data)
    fake.poke(0, b"\x01")
    assert (fake.read(0, 1), data[0]) == (1, 0)


def test_errors_in_the_status_register_are_cleared_by_ones_and_only_those() -> None:
    fake = new_function(1, 2)
    fake.poke(6, b"\x10\xf9")

    fake.write(6, 2, 0x20FF)

    assert fake.data[6:8] == b"\x10\xd9"


def test_a_mask_outside_the_bytes_is_an_error() -> None:
    with pytest.raises(IndexError):
        BytesConfigAccess(bytes(16), {16: 0xFF})


@pytest.mark.parametrize(
    "bar",
    [
        MemoryBar(0, MemoryBarType.Width32, False, 0, 24),
        MemoryBar(0, MemoryBarType.Width32, False, 0, 8),
        MemoryBar(0, MemoryBarType.Width32, False, 0, 1 << 32),
        MemoryBar(0, MemoryBarType.Width64, False, 0, 1 << 64),
        MemoryBar(5, MemoryBarType.Width64, False, 0, 0x1000),
        MemoryBar(6, MemoryBarType.Width32, False, 0, 0x1000),
        IoBar(0, 0, 2),
        IoBar(0, 0, 0),
    ],
)
def test_a_bar_that_cannot_be_cannot_be_declared(bar: MemoryBar | IoBar) -> None:
    fake = new_function(1, 2)
    before = bytes(fake.data)

    with pytest.raises(PciError):
        fake.declare_bar(bar)
    assert fake.data == before


def test_helpers_leave_no_record() -> None:
    fake = new_function(1, 2)
    fake.declare_bar(IoBar(0, 0xC000, 128))
    fake.declare_capability(0x40, 9, b"\0\0")
    assert fake.accesses == []


def test_capabilities_are_declared_in_order() -> None:
    fake = new_function(1, 2)
    for offset in (0x80, 0x40, 0xFC):
        fake.declare_capability(offset, 9, b"\0\0")
    assert [found.offset for found in ConfigSpace(fake).capabilities()] == [0x80, 0x40, 0xFC]


@pytest.mark.parametrize("offset", [0x00, 0x3C, 0x41, 0x100])
def test_a_capability_cannot_be_declared_where_none_can_be(offset: int) -> None:
    with pytest.raises(PciError, match="0x40 to 0xfc"):
        new_function(1, 2, 0x1000).declare_capability(offset, 9, b"\0\0")


def test_a_capability_that_would_stick_out_is_refused_and_not_linked() -> None:
    fake = new_function(1, 2)
    with pytest.raises(PciError, match="do not fit"):
        fake.declare_capability(0xFC, 9, b"\0" * 8)
    assert list(ConfigSpace(fake).capabilities()) == []


def test_nothing_can_be_added_to_a_list_without_an_end() -> None:
    fake = new_function(1, 2)
    fake.poke(0x34, b"\x40")
    fake.poke(0x40, b"\x09\x40")
    with pytest.raises(PciError, match="has no end"):
        fake.declare_capability(0x50, 9, b"\0\0")
