"""Signals must not interrupt the steps that take a device or give it back.

`shield` postpones them to its end. `Interrupted` is what the command line turns SIGTERM and SIGHUP into, so that they
unwind like Ctrl-C does. `Input` is for what may be waited for without end.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_POSTPONED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_woken: int | None = None
"""Readable once a signal has come."""


class Interrupted(BaseException):
    """A signal asked the process to end; `exit_code` is 128 plus its number. No `except Exception` catches it."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"ended by {signal.Signals(signum).name}")
        self.signum = signum
        self.exit_code = 128 + signum


def raise_interrupted(signum: int, frame: FrameType | None) -> None:
    """A signal handler."""
    raise Interrupted(signum)


def unwind_on_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise `Interrupted` in the main thread, so that every `with` gives back what it
    owns. For programs; a library leaves signals to its caller."""
    global _woken
    if _woken is None:
        _woken, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for signum in _POSTPONED:
        signal.signal(signum, raise_interrupted)


class Input(io.RawIOBase):
    """What can be read from a descriptor, which stays open. A signal ends the wait for it, whenever it comes.

    Python notices a signal that came just before a system call only when that returns, and of a pipe that nobody writes
    to, it would not.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        with suppress(OSError):
            return self.seek(0, os.SEEK_CUR) >= 0
        return False

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return os.lseek(self._fd, offset, whence)

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """As of every raw stream. Raises OSError."""
        self._wait()
        with suppress(BlockingIOError):
            return os.readv(self._fd, [buffer])
        return None

    def _wait(self) -> None:
        poll = select.poll()
        for fd in (self._fd, _woken):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        while not any(fd == self._fd for fd, _ in poll.poll()):
            assert _woken is not None, "there is nothing else to be ready"
            # The handler has run by now, and this signal did not end anything.
            with suppress(BlockingIOError):
                os.read(_woken, 4096)


def standard_input() -> io.BufferedReader:
    """Its bytes, of which closing closes nothing; a signal ends a wait for more."""
    return io.BufferedReader(Input(sys.stdin.fileno()))


@contextmanager
def shield() -> Iterator[None]:
    """Postpone SIGINT, SIGTERM and SIGHUP until the block has ended; they then act as they would have before.

    Does nothing outside the main thread, where Python delivers no signals. May be nested.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    # All of them are looked up before any is replaced: a signal may end the steps between.
    earlier = {signum: signal.getsignal(signum) for signum in _POSTPONED}
    try:
        for signum in earlier:
            signal.signal(signum, lambda number, frame: pending.append(number))
        yield
    finally:
        with ExitStack() as steps:
            # Each whatever the others raise: a handler that is back already may act before the next one is.
            for signum, handler in earlier.items():
                # None: a handler that was not installed from Python, which only its owner can put back.
                steps.callback(signal.signal, signum, signal.SIG_DFL if handler is None else handler)
        # Also when the block failed: a Ctrl-C in it must not be forgotten over that.
        for number in pending:
            signal.raise_signal(number)


def _sleep_on() -> None:
    """In a child, whose descriptors may be closed: no signal of its own is written to the parent's pipe."""
    if _woken is not None:
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_sleep_on)
