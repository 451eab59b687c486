"""A fake disk whose bytes are memory that the kernel gives when it is needed, or a file."""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hwloop.device.blk_formats import Segment
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import AlreadyUsed, SetupError
from hwloop.hal.fake import FakeHal
from hwloop.owner import Owner
from hwloop.spec import SECTOR_SIZE

_PAGE = mmap.PAGESIZE


class StoredBlk(FakeBlk, Owner):
    """As `FakeBlk`, of any size; with `path` its bytes are those of the file, which is as long as the disk.

    A flush writes them back; what would be lost if the machine stopped is not kept a second time. Ranges that are
    discarded or zeroed become holes. Raises SetupError for a file that cannot be used, AlreadyUsed for one that
    another device serves.
    """

    def __init__(
        self, hal: FakeHal, size: int, *, path: Path | None = None, writable: bool = True, **shape: Any
    ) -> None:
        self._path, self._writable = path, writable
        super().__init__(hal, size, **shape)

    def close(self) -> None:
        """Write back and forget the bytes. Idempotent; nothing can be served afterwards."""
        assert isinstance(self.data, mmap.mmap)
        if not self.data.closed:
            if self._path is not None and self._writable:
                self.data.flush()
            self.data.close()

    def _new_storage(self, size: int) -> mmap.mmap:
        if self._path is None:
            return mmap.mmap(-1, size)
        try:
            file = os.open(self._path, (os.O_RDWR if self._writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise SetupError.refused(f"cannot open {self._path}", error) from error
        try:
            # The mapping keeps the file open, and with it the lock.
            self._lock(file)
            return mmap.mmap(file, size, access=mmap.ACCESS_WRITE if self._writable else mmap.ACCESS_READ)
        finally:
            os.close(file)

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if self._writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyUsed(f"{self._path} is in use by another device") from None

    def _durable_bytes(self, size: int) -> int:
        return 0

    def _make_durable(self, start: int, length: int) -> None:
        if self._path is not None and self._writable:
            assert isinstance(self.data, mmap.mmap)
            first = start // _PAGE * _PAGE
            self.data.flush(first, start + length - first)

    # --- Ranges -------------------------------------------------------------------------------------------------------

    def _zero(self, segment: Segment) -> None:
        self._clear(segment.sector * SECTOR_SIZE, (segment.sector + segment.sectors) * SECTOR_SIZE)

    def _drop(self, segment: Segment) -> None:
        self._zero(segment)

    def _forget(self, first: int, end: int) -> None:
        self._clear(first * SECTOR_SIZE, end * SECTOR_SIZE)

    def _clear(self, start: int, end: int) -> None:
        """Zeros from `start` to `end`: whole pages are given back, the rest is written."""
        inner = range(-(-start // _PAGE) * _PAGE, end // _PAGE * _PAGE)
        if not inner or not self._punch(inner):
            inner = range(start, start)
        for first, last in ((start, inner.start), (inner.stop, end)):
            self.data[first:last] = bytes(last - first)
        self._settle_write(start, end - start)

    def _punch(self, inner: range) -> bool:
        """Whether the kernel took the pages, which read as zeros then."""
        assert isinstance(self.data, mmap.mmap)
        # Private memory would be forgotten by MADV_DONTNEED; this is shared memory, and a file is one too.
        with suppress(OSError):
            self.data.madvise(mmap.MADV_REMOVE, inner.start, len(inner))
            return True
        return False
