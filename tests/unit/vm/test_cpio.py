"""The archives that the guest's kernel unpacks, read back by a parser of the format of its own."""

from __future__ import annotations

import io
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from hwloop.vm import cpio


def parse(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Name: mode, contents, device. Asserts what the kernel relies on: magic, alignment, a trailer at the end."""
    found: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, major, minor, name_size = fields[1], fields[6], fields[9], fields[10], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        assert data[at + 110 + name_size - 1] == 0
        start = at + (110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert start == len(data)
            return found
        found[name] = mode, data[start : start + size], (major, minor)
        at = start + (size + 3) // 4 * 4


def write(fill: object) -> bytes:
    out = io.BytesIO()
    with cpio.Writer(out) as writer:
        fill(writer)  # type: ignore[operator]
    return out.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_bytes(b"#!/bin/sh\n")
    (root / "usr/bin/tool").chmod(0o755)
    (root / "bin").symlink_to("usr/bin")
    (root / "empty").write_bytes(b"")
    return root


def test_a_tree_keeps_names_permissions_contents_and_links(tree: Path) -> None:
    found = parse(write(lambda writer: writer.tree(tree)))
    assert found["usr/bin/tool"][:2] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n")
    assert found["bin"][:2] == (stat.S_IFLNK | 0o777, b"usr/bin")
    assert found["empty"][1] == b""
    assert stat.S_ISDIR(found["usr"][0])


def test_folders_come_before_what_is_in_them(tree: Path) -> None:
    names = list(parse(write(lambda writer: writer.tree(tree))))
    assert names.index("usr") < names.index("usr/bin") < names.index("usr/bin/tool")


def test_links_to_folders_are_not_followed(tree: Path) -> None:
    assert "bin/tool" not in parse(write(lambda writer: writer.tree(tree)))


def test_two_archives_of_the_same_tree_are_equal(tree: Path) -> None:
    first = write(lambda writer: writer.tree(tree))
    (tree / "empty").touch()
    assert write(lambda writer: writer.tree(tree)) == first


@pytest.mark.parametrize("size", range(9))
def test_every_length_of_name_and_contents_is_aligned(size: int) -> None:
    found = parse(write(lambda writer: (writer.file("n" * (size + 1), b"x" * size), writer.directory("after"))))
    assert found["n" * (size + 1)][1] == b"x" * size
    assert "after" in found


def test_a_device_node_has_its_numbers() -> None:
    found = parse(write(lambda writer: writer.device("dev/console", stat.S_IFCHR | 0o600, 5, 1)))
    assert found["dev/console"][0] == stat.S_IFCHR | 0o600
    assert found["dev/console"][2] == (5, 1)


def test_closing_twice_writes_one_trailer() -> None:
    out = io.BytesIO()
    writer = cpio.Writer(out)
    writer.close()
    writer.close()
    assert out.getvalue().count(b"TRAILER!!!") == 1


@pytest.mark.skipif(shutil.which("cpio") is None, reason="the cpio program is not installed")
def test_the_cpio_program_unpacks_it(tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "unpacked"
    place.mkdir()
    archive = write(lambda writer: writer.tree(tree))
    subprocess.run(["cpio", "-idm", "--quiet"], cwd=place, input=archive, check=True, timeout=30)
    assert (place / "bin/tool").read_bytes() == b"#!/bin/sh\n"
