"""Signals must not interrupt the steps that take a device or give it back.

`shield` postpones them to its end. `Interrupted` is what the command line turns SIGTERM and SIGHUP into, so that they
unwind like Ctrl-C does.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

_POSTPONED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
    for signum in _POSTPONED:
        signal.signal(signum, raise_interrupted)


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
