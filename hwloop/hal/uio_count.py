"""An interrupt as the kernel's UIO drivers pass it on: a descriptor that counts."""

from __future__ import annotations

import errno
import os
import select
from abc import abstractmethod
from contextlib import suppress

from hwloop.errors import DeviceLost, SetupError
from hwloop.hal.interrupt import Interrupt

_COUNT_BYTES = 4


class UioCount(Interrupt):
    """Interrupts that are counted; after each one the line stays off until `rearm`.

    `fd` is the UIO device's, not blocking, and stays the caller's. `count` is how many interrupts came while it was
    open. Raises SetupError when the device has no interrupt.
    """

    needs_ack = True

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self.count = 0
        self.closed = False
        self._last: int | None = None
        self._pending = self._read_first()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self.rearm()

    @abstractmethod
    def _turn(self, on: bool) -> None:
        """Let the line interrupt, or not."""

    def wait(self, seconds: float) -> bool:
        if self._pending:
            self._pending = False
            return True
        if not self._poll.poll(max(0.0, seconds) * 1000):
            return False
        return self._read_count()

    def fileno(self) -> int:
        return self._fd

    def take(self) -> bool:
        """Not blocking, so nothing is polled first."""
        pending, self._pending = self._pending, False
        return pending or self._read_count()

    def mask(self) -> None:
        self._turn(False)

    def rearm(self) -> None:
        self._turn(True)

    def close(self) -> None:
        """Turn the line off. Idempotent."""
        if self.closed:
            return
        self.closed = True
        with suppress(OSError):  # gone from the bus
            self._turn(False)

    def _read_first(self) -> bool:
        """What came before we looked; it also tells a function without an interrupt from a quiet one."""
        try:
            return self._read_count()
        except DeviceLost as error:
            raise SetupError(
                f"the kernel has no interrupt for {self._name}: {error.__cause__}",
                errno=errno.EIO,
                remedy="poll instead",
            ) from error

    def _read_count(self) -> bool:
        """Take the kernel's count of interrupts, which wraps at 32 bits; False when it has not changed."""
        try:
            data = os.read(self._fd, _COUNT_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            raise DeviceLost(f"{self._name} does not answer any more: {error.strerror}") from error
        if len(data) != _COUNT_BYTES:
            raise DeviceLost(f"{self._name} does not answer any more: {len(data)} of {_COUNT_BYTES} bytes came")
        total = int.from_bytes(data, "little")
        self.count += 1 if self._last is None else (total - self._last) % (1 << 32)
        self._last = total
        return True
