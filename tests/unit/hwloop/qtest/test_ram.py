"""The memory of a machine."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from hwloop.errors import DmaError
from hwloop.qtest.ram import RESERVED, GuestRam

SIZE = 8 << 20
BASE = 0x4000_0000


def test_what_is_allocated_is_ours_and_the_machines_at_once() -> None:
    with GuestRam(BASE, SIZE) as ram:
        arena = ram.allocate(4096)
        assert arena.iova == BASE + RESERVED + (arena.vaddr - ram.address - RESERVED)
        ctypes.memmove(arena.vaddr, b"hello", 5)
        assert os.pread(ram.fd, 5, arena.iova - BASE) == b"hello"
        os.pwrite(ram.fd, b"world", arena.iova - BASE)
        assert ctypes.string_at(arena.vaddr, 5) == b"world"


def test_the_start_of_memory_is_left_to_firmware() -> None:
    with GuestRam(0, SIZE) as ram:
        assert ram.allocate(SIZE - RESERVED).iova == RESERVED


def test_memory_that_is_used_up_is_an_error_and_can_be_given_back() -> None:
    with GuestRam(0, SIZE) as ram:
        arena = ram.allocate(SIZE - RESERVED)
        with pytest.raises(DmaError, match="of the 8 MiB of guest RAM are free in one piece"):
            ram.allocate(4096)
        ram.release(arena)
        assert ram.allocate(4096).iova == RESERVED
        with pytest.raises(DmaError):
            ram.release(ram.allocate(4096).__class__(0, RESERVED + 8 * 4096, 4096))


def test_memory_is_zero_whatever_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(b"x" * SIZE)
    fd = os.open(path, os.O_RDWR)
    try:
        with GuestRam(0, SIZE, fd) as ram:
            assert ctypes.string_at(ram.allocate(8192).vaddr, 8192) == bytes(8192)
        os.fstat(fd)
    finally:
        os.close(fd)


def test_closing_is_idempotent_and_closes_the_file_that_has_no_name() -> None:
    ram = GuestRam(0, SIZE)
    fd = ram.fd
    ram.close()
    ram.close()
    with pytest.raises(OSError):  # noqa: PT011
        os.fstat(fd)


def test_more_than_the_host_can_map_is_an_error_with_the_kernels_reason() -> None:
    with pytest.raises(DmaError) as caught:
        GuestRam(0, 1 << 62)
    assert caught.value.errno


def test_what_a_child_writes_there_is_not_seen_here() -> None:
    with GuestRam(0, SIZE) as ram:
        arena = ram.allocate(4096)
        ctypes.memmove(arena.vaddr, b"ours", 4)
        child = os.fork()
        if not child:
            try:
                ctypes.memmove(arena.vaddr, b"evil", 4)
                ram.release(arena)
                ram.close()
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ctypes.string_at(arena.vaddr, 4) == b"ours"
