"""A disk that something uses is refused with exit status 3 and the reason, and is not touched."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guest import machine
from tests.guest.machine import hwloop, sha256

DISK = "0000:00:06.0"
COMMANDS = [
    ("read", DISK, "0", "512"),
    ("write", DISK, "0"),
    ("flush", DISK),
    ("bind", DISK, "--driver", "vfio-pci"),
    ("unbind", DISK),
]


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=60)


def node() -> str:
    return f"/dev/{machine.disk_name(DISK)}"


@contextmanager
def mounted(device: str) -> Iterator[Path]:
    place = Path("/tmp/mnt")
    place.mkdir(exist_ok=True)
    run("mount", "-o", "ro", device, str(place))
    try:
        yield place
    finally:
        run("umount", str(place))


@pytest.fixture(scope="module", autouse=True)
def filesystem() -> None:
    run("mkfs.ext4", "-q", "-F", node())


def assert_refused(reason: str) -> None:
    before = sha256(node())
    for command in COMMANDS:
        result = hwloop(*command, stdin=b"x" * 512)
        assert result.returncode == 3, (command, result)
        assert reason in result.stderr.decode(), (command, result.stderr)
    assert machine.driver(DISK) == "virtio-pci"
    assert machine.override(DISK) == ""
    assert sha256(node()) == before


@pytest.mark.fault(46)
def test_a_mounted_disk_is_refused() -> None:
    with mounted(node()):
        assert_refused(f"mount@{machine.disk_name(DISK)}:/tmp/mnt")
        assert "mount@" in hwloop("list").stdout.decode()
        shown = hwloop("info", DISK)
        assert shown.returncode == 0
        assert "were not read" in shown.stdout.decode()


@pytest.mark.fault(46)
def test_a_disk_mounted_only_in_another_namespace_is_refused() -> None:
    script = f"mkdir -p /tmp/ns && mount -o ro {node()} /tmp/ns && echo up && exec sleep 1000"
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            assert_refused(f"mount@{machine.disk_name(DISK)}:/tmp/ns")
        finally:
            process.kill()


@pytest.mark.fault(46)
def test_a_disk_that_is_the_root_of_a_system_is_refused() -> None:
    """A process whose root file system is the disk, as after booting from it."""
    with mounted_writable(node()) as root:
        (root / "bin").mkdir(exist_ok=True)
        shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    script = (
        f"mkdir -p /tmp/root && mount -o ro {node()} /tmp/root && cd /tmp/root && mount --move . / && "
        "exec chroot . /bin/busybox sh -c '/bin/busybox echo up; exec /bin/busybox sleep 1000'"
    )
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            assert_refused(f"mount@{machine.disk_name(DISK)}:/")
        finally:
            process.kill()


@contextmanager
def mounted_writable(device: str) -> Iterator[Path]:
    place = Path("/tmp/rw")
    place.mkdir(exist_ok=True)
    run("mount", device, str(place))
    try:
        yield place
    finally:
        run("umount", str(place))


@pytest.mark.fault(46)
def test_a_disk_in_use_by_device_mapper_is_refused() -> None:
    run("modprobe", "dm-mod")
    run("dmsetup", "create", "hwlooptest", "--noudevsync", "--noudevrules", "--table", f"0 2048 linear {node()} 0")
    try:
        assert_refused(f"holder@{machine.disk_name(DISK)}:dm-0")
    finally:
        run("dmsetup", "remove", "--noudevsync", "hwlooptest")


@pytest.mark.fault(46)
def test_a_disk_that_another_program_opened_exclusively_is_refused() -> None:
    fd = os.open(node(), os.O_RDONLY | os.O_EXCL)
    try:
        assert_refused(f"exclusive@{machine.disk_name(DISK)}")
    finally:
        os.close(fd)


@pytest.mark.fault(46)
def test_a_disk_under_a_loop_device_is_refused() -> None:
    run("modprobe", "loop")
    run("losetup", "-r", "/dev/loop0", node())
    try:
        assert_refused(f"loop@{machine.disk_name(DISK)}:loop0")
    finally:
        run("losetup", "-d", "/dev/loop0")


@pytest.mark.fault(46)
def test_swap_is_refused() -> None:
    run("mkswap", node())
    run("swapon", node())
    try:
        assert_refused(f"swap@{machine.disk_name(DISK)}")
    finally:
        run("swapoff", node())


@pytest.mark.fault(46)
def test_a_mounted_partition_is_refused_by_its_name() -> None:
    table = bytearray(512)
    struct.pack_into("<BBBBBBBBII", table, 446, 0, 0, 0, 0, 0x83, 0, 0, 0, 2048, 8192)
    table[510:] = b"\x55\xaa"
    with open(node(), "r+b", buffering=0) as disk:
        disk.write(table)
    run("blockdev", "--rereadpt", node())
    partition = f"{node()}1"
    run("mkfs.ext4", "-q", "-F", partition)
    with mounted(partition):
        assert_refused(f"mount@{machine.disk_name(DISK)}1:/tmp/mnt")


def test_a_disk_that_nothing_uses_any_more_is_taken() -> None:
    assert hwloop("read", DISK, "0", "512").returncode == 0
    machine.given_back(DISK)
