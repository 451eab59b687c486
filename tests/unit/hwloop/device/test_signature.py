"""What a disk holds is found by its marks, and nothing is found where nothing is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest

import hwloop
from hwloop import testdev
from hwloop.cli.main import run
from hwloop.device.block import BlockDevice
from hwloop.device.signature import SIGNATURES, Signature, find_signatures, refuse_data
from hwloop.errors import RefusedError

MIB = 1 << 20
MBR = bytes(446) + b"\x00\x20\x21\x00\x83\x1b\x01\x01" + (2048).to_bytes(4, "little") + (4096).to_bytes(4, "little")
MBR = MBR.ljust(510, b"\0") + b"\x55\xaa"


def kinds(data: bytes) -> list[str]:
    return find_signatures(lambda offset, length: data[offset : offset + length], len(data))


def marked(signature: Signature, size: int = MIB) -> bytearray:
    data = bytearray(size)
    start = signature.offset if signature.offset >= 0 else size + signature.offset
    data[start : start + len(signature.mark)] = signature.mark
    return data


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda one: f"{one.kind} at {one.offset}")
def test_each_mark_is_found(signature: Signature) -> None:
    assert kinds(marked(signature)) == [signature.kind]


@pytest.mark.parametrize("data", [b"", bytes(512), bytes(MIB), b"\xff" * MIB, bytes(510) + b"\x55\xaa"])
def test_nothing_is_found_where_nothing_is(data: bytes) -> None:
    assert kinds(data) == []


def test_a_partition_table_has_partitions() -> None:
    assert kinds(MBR.ljust(MIB, b"\0")) == ["an MBR partition table"]


def test_several_kinds_are_all_told_once() -> None:
    data = marked(Signature("", 512, b"EFI PART"))
    data[-512:-504] = b"EFI PART"
    data[:512] = MBR
    assert kinds(data) == [
        "a GPT partition table",
        "the backup of a GPT partition table",
        "an MBR partition table",
    ]


@pytest.mark.parametrize(
    ("tool", "kind"),
    [
        (["mkfs.ext4", "-q", "-F"], "an ext file system"),
        (["mkswap"], "swap space"),
        (["mkfs.vfat"], "a FAT file system"),
        (["mkfs.xfs", "-q", "-f"], "an XFS file system"),
        (["mkfs.btrfs", "-q", "-f"], "a Btrfs file system"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_the_tools_make_is_found(tool: list[str], kind: str, tmp_path: Path) -> None:
    program = shutil.which(tool[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        pytest.skip(f"there is no {tool[0]} here")
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(320 * MIB)
    subprocess.run([program, *tool[1:], str(image)], check=True, capture_output=True, timeout=60)
    with open(image, "rb") as file:

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        assert kind in find_signatures(read, 320 * MIB)


@pytest.mark.fault(47)
@pytest.mark.parametrize("block", [512, 4096])
def test_a_disk_that_holds_data_is_refused_and_one_that_does_not_is_not(block: int) -> None:
    with hwloop.open(f"fake:1M?block-size={block}") as device:
        disk = cast(BlockDevice, device)
        refuse_data(disk, "the disk")
        data = bytes(marked(Signature("", 0x438, b"\x53\xef")))
        disk.write(0, data)
        with pytest.raises(
            RefusedError, match=r"the disk holds an ext file system; nothing was written; .*--yes-destroy-data"
        ):
            refuse_data(disk, "the disk")
        assert disk.read(0, len(data)) == data


DESTROYING = [
    ["write", "TARGET", "0", "-i", "FILE"],
    ["zero", "TARGET", "--all"],
    ["discard", "TARGET", "--all"],
    ["verify", "TARGET", "--pattern", "0xaa", "--write"],
    ["copy", "FILE", "TARGET"],
    ["exec", "TARGET", "-c", "write 0 512"],
    ["exec", "TARGET", "-c", "discard 0 4k"],
]


@pytest.mark.fault(47)
@pytest.mark.parametrize("words", DESTROYING, ids=lambda words: " ".join(words))
def test_a_command_that_destroys_wants_to_be_told(words: list[str], tmp_path: Path) -> None:
    """Over a back end in a process of its own, which keeps what is on its disk."""
    image = tmp_path / "disk.img"
    before = bytes(marked(Signature("", 0x438, b"\x53\xef")))
    image.write_bytes(before)
    (tmp_path / "data").write_bytes(b"d" * 4096)
    with testdev.start(f"{image}?discard=on") as device:
        names = {"TARGET": device.target, "FILE": str(tmp_path / "data")}
        arguments = [names.get(word, word) for word in words]
        assert run(arguments) == 3
        assert image.read_bytes() == before
        assert run([*arguments, "--yes-destroy-data"]) == 0


def test_reading_needs_no_word(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(marked(Signature("", 0x438, b"\x53\xef"))))
    with testdev.start(str(image)) as device:
        for words in (["read", device.target, "0", "512"], ["exec", device.target, "-c", "read 0 512"]):
            assert run(words) == 0
