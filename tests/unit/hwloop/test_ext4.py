"""A file system that mkfs made is read by a library that knows nothing of us, through `disk.raw`."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest

import hwloop
from hwloop import testdev
from hwloop.device.blk import VirtioBlk
from tests.contract.test_block import MIB, pattern

ext4 = pytest.importorskip("ext4", reason="the library ext4 is not installed: pip install ext4")


@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="e2fsprogs is not installed")
@pytest.mark.parametrize("block_size", [512, 4096])
def test_an_ext4_file_system_is_read_from_the_raw_file(tmp_path: Path, block_size: int) -> None:
    folder, image = tmp_path / "folder", tmp_path / "disk.img"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "large").write_bytes(pattern(MIB))
    (folder / "small").write_bytes(b"hello\n")
    with open(image, "wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(folder), str(image)], check=True, timeout=60)
    with testdev.start(f"{image}?block-size={block_size}") as device, hwloop.open(device.target) as disk:
        assert isinstance(disk, VirtioBlk)
        volume = ext4.Volume(io.BufferedReader(disk.raw))
        assert volume.inode_at("/small").open().read() == b"hello\n"
        assert volume.inode_at("/sub/large").open().read() == pattern(MIB)
