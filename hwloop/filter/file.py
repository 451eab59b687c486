"""A trace on disk: a header that says of what, then events.

The file is mapped and grows by windows, so that what was written to it is kept however the process ends: the kernel
has it, also after a SIGKILL. A regular end cuts off what is behind the last event; without one zeros are there.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwloop.errors import DriverError, SetupError
from hwloop.filter.event import Event, pack, unpack
from hwloop.owner import Owner

MAGIC = b"hwltrace"
VERSION = 1
_PREFIX = struct.Struct("<8sII")
_WINDOW = 1 << 20


class BadTrace(DriverError):
    """A file that is no trace, or one of another version."""


class TraceFile(Owner):
    """A new trace at `path`; what was there is overwritten. `header` is plain data about what is traced.

    Raises SetupError where it cannot be written, also later when the file system is full.
    """

    def __init__(self, path: str, header: dict[str, Any]) -> None:
        self.path = path
        self._pid = os.getpid()
        self._map: mmap.mmap | None = None
        self._base = self._at = 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SetupError.refused(f"cannot write the trace {path}", error) from error
        try:
            self._open_window(0)
            self._put(_header_bytes(header))
        except BaseException:
            self.close()
            raise

    def write(self, event: Event) -> None:
        """Append an event. After `close`, and in a child of the process that made the file, nothing is written."""
        if self._map is not None and self._pid == os.getpid():
            self._put(pack(event))

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        window, self._map = self._map, None
        try:
            if window is not None:
                window.close()
                if self._pid == os.getpid():
                    os.ftruncate(fd, self._base + self._at)
        finally:
            os.close(fd)

    def _put(self, data: bytes) -> None:
        while data:
            assert self._map is not None
            piece = data[: _WINDOW - self._at]
            self._map[self._at : self._at + len(piece)] = piece
            self._at += len(piece)
            data = data[len(piece) :]
            if self._at == _WINDOW:
                self._open_window(self._base + _WINDOW)

    def _open_window(self, base: int) -> None:
        """Room is reserved before it is mapped: a full disk is then an error and not a signal."""
        try:
            os.posix_fallocate(self._fd, base, _WINDOW)
            window = mmap.mmap(self._fd, _WINDOW, offset=base)
        except OSError as error:
            raise SetupError.refused(f"cannot write the trace {self.path}", error) from error
        old, self._map = self._map, window
        self._base, self._at = base, 0
        if old is not None:
            old.close()


@dataclass(frozen=True)
class Trace:
    """A trace that was read: `header` as it was given to `TraceFile`, `data` the events behind it."""

    header: dict[str, Any]
    data: bytes

    @classmethod
    def read(cls, path: str | Path) -> Trace:
        """Raises BadTrace, and OSError for a file that cannot be read."""
        raw = Path(path).read_bytes()
        if len(raw) < _PREFIX.size or not raw.startswith(MAGIC):
            raise BadTrace(f"{path} is not a trace of hwloop", remedy="make one: hwloop read TARGET 0 4k --trace FILE")
        _, version, length = _PREFIX.unpack_from(raw)
        if version != VERSION:
            raise BadTrace(f"{path} is a trace of version {version}; this hwloop reads version {VERSION}")
        end = _PREFIX.size + length
        try:
            header = json.loads(raw[_PREFIX.size : end])
        except ValueError:
            raise BadTrace(f"{path} is a trace with a broken header") from None
        return cls(header, raw[end + -end % 8 :])

    def events(self) -> Iterator[Event]:
        """The events in their order. Raises BadTrace for what is none."""
        offset = 0
        while True:
            try:
                found = unpack(self.data, offset)
            except ValueError:
                raise BadTrace(f"the trace has an event of an unknown kind, {offset} bytes behind its header") from None
            if found is None:
                return
            event, offset = found
            yield event


def _header_bytes(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    data = _PREFIX.pack(MAGIC, VERSION, len(text)) + text
    return data + bytes(-len(data) % 8)
