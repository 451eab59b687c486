"""Interrupts that the kernel passes on as eventfds."""

from __future__ import annotations

import os
import select
from contextlib import ExitStack, suppress

from hwloop.hal.interrupt import Interrupt


class EventfdInterrupt(Interrupt):
    """The eventfd `line`, which is not blocking, and stays open when this is closed.

    `config` is another one, for changes of the configuration alone: it ends a wait too, and is left for
    `Transport.ack_interrupt` to read.
    """

    kind = "eventfd"

    def __init__(self, line: int, config: int | None = None) -> None:
        self.needs_ack = config is not None
        self._line: int | None = line
        self._poll = select.poll()
        for fd in (line, config):
            if fd is not None:
                self._poll.register(fd, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        if self._line is None or not self._poll.poll(max(0.0, seconds) * 1000):
            return False
        take_events(self._line)
        return True

    def fileno(self) -> int | None:
        return self._line

    def rearm(self) -> None:
        """Nothing to do: what came meanwhile shows in the next `wait`."""

    def close(self) -> None:
        self._line = None


def new_eventfd(stack: ExitStack) -> int:
    """An eventfd that is not blocking, not for child processes, and closed with the stack."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    stack.callback(os.close, fd)
    return fd


def take_events(fd: int) -> bool:
    """Read an eventfd that is not blocking; whether there was something in it."""
    with suppress(BlockingIOError):
        os.eventfd_read(fd)
        return True
    return False
