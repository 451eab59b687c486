"""A socket to QEMU on which both sides write lines, and on which nothing is waited for without an end."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

from hwloop.deadline import Deadline
from hwloop.errors import DeviceLost, HwloopError
from hwloop.forked import disown_in_children, keep_no_longer
from hwloop.owner import Owner

_PIECE = 1 << 16
_LONGEST = 1 << 24
"""No line of QMP is longer, and qtest's have some thirty bytes: behind that is no QEMU."""


class LineSocket(Owner):
    """Lines over the connected stream socket `sock`, which it owns.

    `name` is what errors call it; `seconds` how long a send, or the next piece of a line, may take; `explain` tells why
    the other side is gone, or "". After the first failure nothing that comes can be believed, and every method but
    `close` raises DeviceLost. Not locked: its user does that.
    """

    def __init__(
        self, sock: socket.socket, name: str, seconds: float, explain: Callable[[], str] | None = None
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.lost = ""
        self._socket = sock
        self._explain = explain or (lambda: "")
        self._buffer = bytearray()
        # Of the kernel, not of Python, which makes a system call more of every receive.
        time = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, time)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, time)
        disown_in_children(self)

    def send(self, line: str) -> None:
        """All of it, or nothing. Raises DeviceLost, DeadlineExpired when the other side takes nothing."""
        self._check()
        data = line.encode() + b"\n"
        try:
            # Not sendall, which may raise in the middle when a signal comes.
            sent = self._socket.send(data)
        except BlockingIOError:
            raise self._late(f"QEMU to take {line!r} from {self.name}", Deadline(self.seconds)) from None
        except OSError:
            raise self._gone() from None
        if sent != len(data):
            raise self._late(f"QEMU to take all of {line!r} from {self.name}", Deadline(self.seconds))

    def receive(self, deadline: Deadline, waited_for: str) -> str:
        """The next line. Raises DeviceLost, DeadlineExpired."""
        while (line := self._take_line()) is None:
            self._check()
            if deadline.expired():
                raise self._late(waited_for, deadline)
            try:
                data = self._socket.recv(_PIECE)
            except BlockingIOError:
                raise self._late(waited_for, deadline) from None
            except OSError:
                raise self._gone() from None
            self._add(data)
        return line

    def arrived(self) -> Iterator[str]:
        """The lines that are there, without waiting for more. Raises DeviceLost."""
        self._check()
        try:
            self._add(self._socket.recv(_PIECE, socket.MSG_DONTWAIT))
        except BlockingIOError:
            pass
        except DeviceLost:
            raise
        except OSError:
            raise self._gone() from None
        while (line := self._take_line()) is not None:
            yield line

    def wait(self, seconds: float) -> None:
        """Until something comes, and at most so long."""
        poll = select.poll()
        with suppress(ValueError):  # closed: the next call says so
            poll.register(self._socket, select.POLLIN)
            poll.poll(max(0.0, seconds) * 1000)

    def disown(self) -> None:
        self.lost = f"{self.name} belongs to the process that opened it, and this is a child of it"
        self._socket.close()

    def close(self) -> None:
        self.lost = self.lost or f"{self.name} is closed"
        keep_no_longer(self)
        self._socket.close()

    def _check(self) -> None:
        if self.lost:
            raise DeviceLost(self.lost)

    def _add(self, data: bytes) -> None:
        if not data:
            raise self._gone()
        self._buffer += data
        if len(self._buffer) > _LONGEST:
            self.lost = f"what answers at {self.name} is not QEMU: it sends {_LONGEST} bytes without a line's end"
            raise DeviceLost(self.lost)

    def _take_line(self) -> str | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = self._buffer[:end].decode(errors="backslashreplace")
        del self._buffer[: end + 1]
        return line.rstrip("\r")

    def _late(self, waited_for: str, deadline: Deadline) -> HwloopError:
        """What was late may still come, in place of the next answer: nothing is asked any more."""
        error = deadline.error(waited_for, remedy="is it stopped, or very busy?")
        self.lost = f"{self.name} did not answer before, so it is not asked any more"
        return error

    def _gone(self) -> DeviceLost:
        self.lost = self._explain() or f"QEMU closed {self.name}"
        return DeviceLost(self.lost)
