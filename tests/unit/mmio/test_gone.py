"""A mapping behind which nothing answers any more: an error, and not the end of the process.

A file that is cut short is answered with SIGBUS by the kernel, as is a BAR whose device has gone.
"""

from __future__ import annotations

import errno
import faulthandler
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmio import DevMemWindow, MappedFile, MappedRegion, RegionGone

PAGE = 4096
SUFFIXES = ["8", "16", "32", "64", "64_lo_hi", "64_hi_lo"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bar"
    path.write_bytes(bytes(PAGE))
    return path


def cut(path: Path, size: int = 0) -> None:
    with open(path, "r+b") as file:
        file.truncate(size)


@pytest.fixture(params=["MappedFile", "DevMemWindow"])
def region(request: pytest.FixtureRequest, file: Path) -> Iterator[MappedRegion]:
    with MappedFile(file, 0, PAGE) if request.param == "MappedFile" else DevMemWindow(0, PAGE, file) as region:
        yield region


@pytest.mark.fault(10, over="machine")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_read_of_what_has_gone_is_an_error(region: MappedRegion, file: Path, suffix: str) -> None:
    cut(file)
    with pytest.raises(RegionGone, match="nothing answers") as caught:
        getattr(region, f"read{suffix}")(0x50)
    assert caught.value.errno == errno.ENODEV


@pytest.mark.fault(10, over="machine")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_write_to_what_has_gone_is_an_error(region: MappedRegion, file: Path, suffix: str) -> None:
    cut(file)
    with pytest.raises(RegionGone):
        getattr(region, f"write{suffix}")(0x50, 1)
    assert file.read_bytes() == b""


def test_what_comes_back_works_again(region: MappedRegion, file: Path) -> None:
    for _ in range(3):
        cut(file)
        with pytest.raises(RegionGone):
            region.read32(0)
        cut(file, PAGE)
        region.write32(0, 0x1234)
        assert region.read32(0) == 0x1234


def test_every_thread_has_its_own_way_back(region: MappedRegion, file: Path) -> None:
    cut(file)
    errors: list[OSError] = []

    def use() -> None:
        for _ in range(200):
            try:
                region.read32(0)
            except OSError as error:
                errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 800
    assert {type(error) for error in errors} == {RegionGone}


SCRIPT = """
import ctypes, faulthandler, mmap, signal, sys
from mmio import MappedFile, RegionGone
{before}
region = MappedFile(sys.argv[1], 0, 4096)
file = open(sys.argv[1], "r+b")
mapping = mmap.mmap(file.fileno(), 4096)
file.truncate(0)
try:
    region.read32(0)
except RegionGone:
    print("caught", flush=True)
mapping[0]
"""


@pytest.mark.parametrize("before", ["", "signal.signal(signal.SIGBUS, signal.SIG_IGN)", "faulthandler.enable()"])
def test_an_access_that_is_not_ours_ends_the_process_as_ever(file: Path, before: str) -> None:
    code = SCRIPT.format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=60, check=False,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.stdout == "caught\n"
    assert done.returncode == -signal.SIGBUS
    assert ("Fatal Python error: Bus error" in done.stderr) == ("faulthandler" in before)


def test_a_handler_that_was_there_later_is_not_in_the_way(file: Path) -> None:
    was_enabled = faulthandler.is_enabled()
    faulthandler.enable(open("/dev/null", "w"))  # noqa: SIM115
    try:
        with MappedFile(file, 0, PAGE) as region:
            cut(file)
            with pytest.raises(RegionGone):
                region.read32(0)
    finally:
        faulthandler.disable()
        if was_enabled:
            faulthandler.enable()
