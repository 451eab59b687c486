"""The frames that guest/agent.c sends: a byte that says what it is, the length as 32 bits little endian, the bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from hwloop.vm.errors import GuestFailed

READY, STDOUT, STDERR, EXIT, FAILURE = b"r", b"o", b"e", b"x", b"f"

MAX_SIZE = 1 << 20
"""The agent sends 32 KiB at most. A larger length means that something else wrote to its port."""

_HEADER = struct.Struct("<cI")
_KINDS = (READY, STDOUT, STDERR, EXIT, FAILURE)


class Decoder:
    """Puts frames together from a stream that comes in pieces of any size."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The frames that are complete now, as kind and contents. Raises GuestFailed for what is no frame."""
        self._waiting += data
        while (size := self._next_size()) is not None:
            kind = bytes(self._waiting[:1])
            body = bytes(self._waiting[_HEADER.size : size])
            del self._waiting[:size]
            yield kind, body

    def _next_size(self) -> int | None:
        """The size of the first frame with its header, once it is there as a whole."""
        if len(self._waiting) < _HEADER.size:
            return None
        kind, length = _HEADER.unpack_from(self._waiting)
        if kind not in _KINDS or length > MAX_SIZE:
            start = bytes(self._waiting[:8])
            raise GuestFailed(f"the guest sent {start!r}, which is no frame: did a program write to the agent's port?")
        size = _HEADER.size + int(length)
        return size if len(self._waiting) >= size else None


def exit_status(body: bytes) -> int:
    """The status in an EXIT frame."""
    return int.from_bytes(body[:4], "little")
