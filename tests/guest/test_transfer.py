"""Bytes through the command, in both directions, and the kernel's driver afterwards. /share holds the data."""

from __future__ import annotations

import time
from pathlib import Path

from tests.guest import machine
from tests.guest.machine import given_back, hwloop, sha256

DISK = "0000:00:05.0"
SHARE = Path("/share")


def test_an_image_written_and_read_back_is_the_same_image() -> None:
    image = SHARE / "random.bin"
    began = time.monotonic()
    written = hwloop("write", DISK, "0", "-i", str(image))
    middle = time.monotonic()
    assert written.returncode == 0, written.stderr
    given_back(DISK)
    read = hwloop("read", DISK, "0", "64M", "-o", str(SHARE / "back.bin"))
    ended = time.monotonic()
    assert read.returncode == 0, read.stderr
    assert sha256(image) == sha256(SHARE / "back.bin")
    given_back(DISK)
    print(f"64 MiB: write {middle - began:.1f} s, read {ended - middle:.1f} s")


def test_the_kernel_reads_what_hwloop_wrote() -> None:
    assert sha256(SHARE / "random.bin") == sha256(f"/dev/{machine.disk_name(DISK)}")


def test_hwloop_reads_what_the_kernel_wrote() -> None:
    with open(f"/dev/{machine.disk_name(DISK)}", "r+b", buffering=0) as disk:
        disk.write(b"k" * 4096)
    assert hwloop("read", DISK, "0", "4k").stdout == b"k" * 4096
    with open(SHARE / "random.bin", "rb") as image:
        restored = hwloop("write", DISK, "0", stdin=image.read(4096))
    assert restored.returncode == 0, restored.stderr


def test_a_write_of_part_of_a_block_keeps_the_rest_of_it() -> None:
    before = hwloop("read", DISK, "0", "2k").stdout
    assert hwloop("write", DISK, "510", stdin=b"ABCDE").returncode == 0
    after = hwloop("read", DISK, "0", "2k").stdout
    assert after == before[:510] + b"ABCDE" + before[515:]
    assert hwloop("read", DISK, "509", "7").stdout == before[509:510] + b"ABCDE" + before[515:516]
    assert hwloop("write", DISK, "510", stdin=before[510:515]).returncode == 0


def test_the_name_of_the_kernel_is_a_target_too() -> None:
    name = machine.disk_name(DISK)
    assert hwloop("id", name).stdout == b"HWLOOP0\n"
    assert hwloop("flush", f"pci:{DISK}").returncode == 0
    given_back(DISK)


def test_a_forced_hex_dump_has_the_layout_of_hexdump() -> None:
    assert hwloop("write", DISK, "1M", stdin=bytes(range(32)) + bytes(480)).returncode == 0
    lines = hwloop("read", DISK, "1M", "64", "--hexdump").stdout.decode().splitlines()
    assert lines[0] == "00100000  00 01 02 03 04 05 06 07  08 09 0a 0b 0c 0d 0e 0f  |................|"
    assert lines[-1] == "00100040"


def test_ranges_off_the_disk_are_usage_errors_and_touch_nothing() -> None:
    for arguments in (("read", DISK, "64M", "1"), ("read", DISK, "0", "65M"), ("read", DISK, "-1", "1")):
        result = hwloop(*arguments)
        assert result.returncode == 2, result
        assert result.stdout == b""
    assert hwloop("write", DISK, "64M", stdin=b"x").returncode == 2
    given_back(DISK)


def test_writing_to_a_read_only_disk_is_refused() -> None:
    read_only = "0000:00:07.0"
    result = hwloop("write", read_only, "0", stdin=b"x" * 512)
    assert result.returncode == 2
    assert b"read-only" in result.stderr
    assert hwloop("read", read_only, "0", "4").stdout == b"\0\0\0\0"
    given_back(read_only)
