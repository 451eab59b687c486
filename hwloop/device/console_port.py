"""One port of a console device: two queues, and what the device says of it (VIRTIO 1.4, 5.3)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from hwloop.device.console_protocol import ControlEvent
from hwloop.device.outbox import Outbox
from hwloop.device.patience import Patience
from hwloop.errors import DeadlineExpired, HwloopError, InvalidParam
from hwloop.owning_queue import OwningQueue

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hwloop.device.console import VirtioConsole

RECEIVE_BYTES = 4096
"""How much `receive` returns at most where it is not told."""
_PULL_AHEAD = 1 << 16
"""Bytes taken from the device while somebody sends: an echo that nobody reads must not stop what it echoes."""
_REMIND_FROM_SECONDS = 1.0


class PortRemoved(HwloopError):
    """The device took the port away; the others work on."""

    default_errno = errno.ENODEV
    exit_code = 5


class ConsolePort:
    """A port: bytes in, bytes out.

    `id` is its number, `name` what the device calls it or "", `is_console` whether it is for text to a person,
    `host_open` whether somebody is at the other end, `size` its columns and rows where the device told them. What the
    device says is learnt when the console is used.
    """

    def __init__(self, console: VirtioConsole, number: int, inbox: OwningQueue, outbox: Outbox) -> None:
        self.id = number
        self.name = ""
        self.is_console = False
        self.host_open = False
        self.size: tuple[int, int] | None = None
        self.removed = False
        self._console = console
        self._inbox = inbox
        self._outbox = outbox
        self._opened = False
        self._pending = bytearray()

    def __repr__(self) -> str:
        return f"ConsolePort({self.id}, {self.name!r}, is_console={self.is_console}, host_open={self.host_open})"

    def send(self, data: Buffer | int, seconds: float | None = None) -> None:
        """Send bytes, or one byte as a number, and return when the device has taken them all.

        A device whose other end does not read may never take them: then DeadlineExpired is raised after `seconds`
        (default: the console's `request_seconds`) and what was handed over may still be sent later. Raises
        InvalidParam, PortRemoved, DeviceLost.
        """
        view = _bytes_of(data)
        patience, offset, ticket = self._console._patience(seconds), 0, 0
        while True:
            with self._console._working():
                self._console._serve_control()
                self._get_ready()
                self._outbox.take_back()
                offset, ticket = self._put(view, offset, ticket)
                if offset == view.nbytes and not self._outbox.has(ticket):
                    return
                self._pull(_PULL_AHEAD)
                late = patience.is_over()
                if not late:
                    self._console._wait_for(self._outbox.queue, patience)
            if late:
                raise _not_taken(self, view.nbytes, patience)

    def receive(self, max_bytes: int = RECEIVE_BYTES, seconds: float | None = None) -> bytes:
        """What has come, at most so many bytes, as soon as there is something; b"" when there is nothing in time.

        `seconds` 0 only looks; the default is the console's `request_seconds`. Raises InvalidParam, PortRemoved,
        DeviceLost.
        """
        if max_bytes < 1:
            raise InvalidParam(f"cannot receive {max_bytes} bytes")
        patience = self._console._patience(seconds)
        remind = patience.deadline.seconds >= _REMIND_FROM_SECONDS
        while True:
            with self._console._working():
                self._console._serve_control()
                if not self._pending:
                    self._get_ready()
                self._pull(max_bytes)
                if self._pending or patience.is_over():
                    return self._cut(max_bytes)
                self._console._wait_for(self._inbox.queue, patience, remind=remind)

    def open(self) -> None:
        """Tell the device that somebody is here; `send` and `receive` do it by themselves. Idempotent."""
        with self._console._working():
            self._console._serve_control()
            self._get_ready()

    def close(self) -> None:
        """Tell the device that nobody is here any more. Idempotent."""
        with self._console._working():
            if self._opened and not self.removed:
                self._opened = False
                self._console._tell(self.id, ControlEvent.PORT_OPEN, 0)

    def _get_ready(self) -> None:
        if self.removed:
            raise PortRemoved(f"the device removed port {self.id}", remedy="see the ports that there are")
        if not self._opened:
            self._opened = True
            self._console._tell(self.id, ControlEvent.PORT_OPEN, 1)

    def _put(self, view: memoryview, offset: int, ticket: int) -> tuple[int, int]:
        """Hand over what fits; returns how far that is and the ticket of the last piece."""
        while offset < view.nbytes:
            piece = view[offset : offset + self._outbox.slot_bytes]
            given = self._outbox.put(piece)
            if given is None:
                break
            offset, ticket = offset + piece.nbytes, given
        self._outbox.queue.submit()
        return offset, ticket

    def _pull(self, wanted: int) -> None:
        """Take what the device has filled until so many bytes are pending; no more than once each buffer."""
        for _ in range(self._inbox.queue.size):
            # Behind a removed port there may be a new one of the same number, whose bytes these would be.
            if self.removed or len(self._pending) >= wanted or (data := self._inbox.poll(bytes)) is None:
                return
            self._pending += data

    def _cut(self, most: int) -> bytes:
        data = bytes(self._pending[:most])
        del self._pending[:most]
        return data

    def _end(self) -> None:
        """The device removed the port; what it had said before can still be received."""
        self._pull(_PULL_AHEAD)
        self.removed = True

    def _forget_input(self) -> None:
        """Drop what came for an earlier port of the same number."""
        for _ in range(self._inbox.queue.size):
            if self._inbox.poll(bytes) is None:
                return


def _bytes_of(data: Buffer | int) -> memoryview:
    if not isinstance(data, int):
        return memoryview(data).cast("B")
    if not 0 <= data <= 0xFF:
        raise InvalidParam(f"{data} is not a byte")
    return memoryview(bytes([data]))


def _not_taken(port: ConsolePort, length: int, patience: Patience) -> DeadlineExpired:
    error = patience.deadline.error(
        f"port {port.id} to take {length} bytes", remedy="is somebody reading at the other end?"
    )
    error.add_note(port._outbox.queue.dump())
    return error
