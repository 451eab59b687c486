"""Windows of physical memory, tried on ordinary files, and the sentences for what /dev/mem refuses."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from mmio import DevMemWindow, MmioError, RegionBoundsError

PAGE = mmap.PAGESIZE


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "mem"
    path.write_bytes(bytes(3 * PAGE))
    return path


@pytest.mark.parametrize("address", [0, 0x200, PAGE - 4, PAGE + 0xE00])
def test_a_window_starts_at_its_address_wherever_in_the_page(memory: Path, address: int) -> None:
    with DevMemWindow(address, 0x200, memory) as window:
        window.write32(0, 0x74726976)
        assert (window.physical_address, window.size) == (address, 0x200)
    assert memory.read_bytes().index(b"virt") == address


def test_closing_unmaps_and_leaves_no_descriptor(memory: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    window = DevMemWindow(0x100, 0x100, memory)
    window.close()
    assert str(memory) not in Path("/proc/self/maps").read_text()
    assert set(os.listdir("/proc/self/fd")) == before


def test_dropping_the_last_reference_unmaps(memory: Path) -> None:
    window = DevMemWindow(0x100, 0x100, memory)
    assert window.read32(0) == 0
    del window
    assert str(memory) not in Path("/proc/self/maps").read_text()


def test_a_refused_mapping_leaves_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(MmioError, match="physical address 0x1000 of /dev/null cannot be mapped") as caught:
        DevMemWindow(0x1000, 4, "/dev/null")
    assert caught.value.errno == errno.ENODEV
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("address", "size"), [(-4, 4), (0, 0), (3 * PAGE, 4), (0, 3 * PAGE + 1), (1 << 63, 4)])
def test_a_window_outside_the_memory_is_refused(memory: Path, address: int, size: int) -> None:
    with pytest.raises(RegionBoundsError):
        DevMemWindow(address, size, memory)


def test_a_kernel_without_the_device_is_explained(tmp_path: Path) -> None:
    with pytest.raises(MmioError, match="CONFIG_DEVMEM") as caught:
        DevMemWindow(0, 4, tmp_path / "absent")
    assert caught.value.errno == errno.ENOENT


def refuse(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, code: int) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize(("code", "advice"), [(errno.EACCES, "run as root$"), (errno.EPERM, "lockdown")])
def test_a_refused_open_is_explained(memory: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str) -> None:
    refuse(monkeypatch, os, "open", code)
    with pytest.raises(MmioError, match=f"mem cannot be opened: .*{advice}") as caught:
        DevMemWindow(0, 4, memory)
    assert caught.value.errno == code


def test_a_range_that_a_driver_holds_is_explained(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, mmap, "mmap", errno.EPERM)
    with pytest.raises(MmioError, match=r"unbind the kernel driver first.*IO_STRICT_DEVMEM.*lockdown") as caught:
        DevMemWindow(PAGE, 0x200, memory)
    assert caught.value.errno == errno.EPERM
