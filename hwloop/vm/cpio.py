"""Write initramfs archives: cpio in its "newc" form (Linux, early-userspace/buffer-format.rst).

An own writer, because it needs neither root nor the cpio program, gives every file to root, and makes archives that
are equal byte for byte when their contents are. The kernel takes several archives one behind the other; a later one
replaces files of an earlier one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MTIME = 1577836800
"""Every file's time, 2020-01-01: the archive then depends on nothing but its contents."""

_COPY = 1 << 20


class Writer:
    """Writes one archive to `out`; `close()` adds the trailer. A context manager. Inode numbers are counted up."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0
        self._closed = False

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def directory(self, name: str, mode: int = 0o755) -> None:
        self._entry(name, stat.S_IFDIR | mode, links=2)

    def symlink(self, name: str, target: str) -> None:
        self.file(name, os.fsencode(target), stat.S_IFLNK | 0o777)

    def device(self, name: str, mode: int, major: int, minor: int) -> None:
        """A device node; `mode` has S_IFCHR or S_IFBLK."""
        self._entry(name, mode, device=(major, minor))

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._entry(name, _as_file(mode), size=len(data))
        self._out.write(data)
        self._pad(len(data))

    def copy(self, name: str, source: Path, mode: int) -> None:
        """A regular file with the contents of `source`."""
        with source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._entry(name, _as_file(mode), size=size)
            for block in _blocks(file, size, source):
                self._out.write(block)
        self._pad(size)

    def tree(self, root: Path, at: str = "") -> None:
        """Everything below `root`, by name, placed below `at`; owners are dropped, permissions kept."""
        for path in _walk(root):
            self._path(str(Path(at) / path.relative_to(root)), path)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._header("TRAILER!!!", mode=0, links=1, size=0, device=(0, 0), inode=0, mtime=0)

    def _path(self, name: str, path: Path) -> None:
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            self.directory(name, stat.S_IMODE(mode))
        elif stat.S_ISLNK(mode):
            self.symlink(name, os.readlink(path))
        elif stat.S_ISREG(mode):
            self.copy(name, path, stat.S_IMODE(mode))

    def _entry(self, name: str, mode: int, *, links: int = 1, size: int = 0, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        self._header(name, mode, links, size, device, self._inode, MTIME)

    def _header(
        self, name: str, mode: int, links: int, size: int, device: tuple[int, int], inode: int, mtime: int
    ) -> None:
        raw = os.fsencode(name) + b"\0"
        fields = (inode, mode, 0, 0, links, mtime, size, 0, 0, *device, len(raw), 0)
        self._out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        self._pad(110 + len(raw))

    def _pad(self, written: int) -> None:
        self._out.write(bytes(-written % 4))


def _as_file(mode: int) -> int:
    return mode if stat.S_IFMT(mode) else mode | stat.S_IFREG


def _blocks(file: BinaryIO, size: int, source: Path) -> Iterator[bytes]:
    """`size` bytes of `file`; its header is written already, so a file that shrank is an error."""
    while size:
        block = file.read(min(size, _COPY))
        if not block:
            raise OSError(f"{source}: became shorter while it was copied into the archive")
        size -= len(block)
        yield block


def _walk(root: Path) -> Iterator[Path]:
    """Everything below `root`, parents first, in the order of names."""
    for path in sorted(root.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
