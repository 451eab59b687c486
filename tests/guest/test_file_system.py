"""ext4 on a disk that hwloop has, and on that disk when the kernel has it: what one of them wrote, the other reads."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guest import machine
from tests.guest.machine import given_back, hwloop, sha256, start, wait_for

DISK = "0000:00:05.0"
NBD = Path("/dev/nbd0")
FILES = 24


def call(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files of up to 150 KiB in folders."""
    folder = tmp_path / "files"
    for number in range(FILES):
        path = folder / f"folder{number % 5}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(number * 4000))
    return folder


def sums(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): sha256(path) for path in paths}


@contextmanager
def mounted(disk: str | Path, folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    call("mount", "-t", "ext4", *options, disk, folder)
    try:
        yield folder
    finally:
        call("umount", folder)


@contextmanager
def served(target: str, socket: Path) -> Iterator[None]:
    """The disk as the kernel's /dev/nbd0; at the end the server has ended well and the disk is the kernel's again."""
    server = start("serve", "nbd", target, "--socket", str(socket))
    assert server.stdout is not None
    assert b"serving" in server.stdout.readline(), server.communicate()[1]
    call("modprobe", "nbd", "nbds_max=1")
    call("nbd-client", "-unix", socket, NBD, "-block-size", "512")
    assert wait_for(lambda: int(Path("/sys/block/nbd0/size").read_text()) > 0)
    try:
        yield
    finally:
        call("nbd-client", "-d", NBD)
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=60)[1]
        assert (server.returncode, said) == (0, b"")
    given_back(target)


def test_ext4_lives_on_a_disk_that_is_served_and_the_kernel_reads_it_afterwards(files: Path, tmp_path: Path) -> None:
    with served(DISK, tmp_path / "disk.sock"):
        call("mkfs.ext4", "-q", "-F", NBD)
        with mounted(NBD, tmp_path / "over-nbd") as folder:
            shutil.copytree(files, folder / "files")
            shutil.copytree(files, folder / "more")
            shutil.rmtree(folder / "more")
        with mounted(NBD, tmp_path / "over-nbd") as folder:
            assert sums(folder / "files") == sums(files)
        call("e2fsck", "-f", "-n", NBD)
    disk = f"/dev/{machine.disk_name(DISK)}"
    call("e2fsck", "-f", "-n", disk)
    with mounted(disk, tmp_path / "by-the-kernel", "-o", "ro") as folder:
        assert sums(folder / "files") == sums(files)


def test_ext4_copied_by_hwloop_is_filled_by_the_kernel_and_read_by_hwloop(files: Path, tmp_path: Path) -> None:
    image, back = tmp_path / "ext4.img", tmp_path / "back.img"
    call("mkfs.ext4", "-q", "-d", files, image, "16M")
    copied = hwloop("copy", str(image), DISK, "--verify", "--yes-destroy-data")
    assert copied.returncode == 0, copied.stderr
    given_back(DISK)
    disk = f"/dev/{machine.disk_name(DISK)}"
    call("e2fsck", "-f", "-n", disk)
    with mounted(disk, tmp_path / "by-the-kernel") as folder:
        assert {name: found for name, found in sums(folder).items() if "file" in name} == sums(files)
        shutil.copytree(files, folder / "written by the kernel")
        refused = hwloop("read", DISK, "0", "4k")
        assert refused.returncode == 3, "a disk that is mounted is not taken"
    copied = hwloop("copy", DISK, str(back))
    assert copied.returncode == 0, copied.stderr
    given_back(DISK)
    call("e2fsck", "-f", "-n", back)
    for number in (7, FILES - 1):
        inside = f"written by the kernel/folder{number % 5}/file{number}"
        call("debugfs", "-R", f'dump "{inside}" {tmp_path / "out"}', back)
        assert sha256(tmp_path / "out") == sha256(files / f"folder{number % 5}/file{number}")
