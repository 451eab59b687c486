"""Every wait has an end, and the error says what was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

from hwloop.errors import DeadlineExpired

RESET_SECONDS = 5.0
"""How long a device may take to report status 0 after a reset."""

REQUEST_SECONDS = 30.0
"""How long a request may take: what the kernel's block layer gives one."""

CONFIG_ATTEMPTS_SECONDS = 2.0
"""How long the configuration generation may go on changing under our reads."""


class Deadline:
    """A moment on CLOCK_MONOTONIC by which something must have happened.

    `seconds` is the whole time given, and is what the error names. The clock stands still while the machine is
    suspended, so a suspend does not expire a wait.
    """

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; 0.0 once it has expired."""
        return max(0.0, self._end - time.monotonic())

    def expired(self) -> bool:
        return time.monotonic() >= self._end

    def error(self, waited_for: str, *, remedy: str = "", section: str = "") -> DeadlineExpired:
        return DeadlineExpired(waited_for, self.seconds, remedy=remedy, section=section)


def wait_until(
    condition: Callable[[], bool], waited_for: str, seconds: float, *, remedy: str = "", section: str = ""
) -> None:
    """Poll until the condition holds; naps grow from 0 to 1 ms so that a fast device costs no sleep.

    Raises DeadlineExpired, after one last look: a process that was not scheduled for a while must not fail a device
    that was in time.
    """
    deadline = Deadline(seconds)
    nap = 0.0
    while not condition():
        if deadline.expired():
            if condition():
                return
            raise deadline.error(waited_for, remedy=remedy, section=section)
        time.sleep(nap)
        nap = min(0.001, nap * 2 + 0.00001)
