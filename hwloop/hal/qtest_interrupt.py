"""Interrupts of a machine that is driven through qtest: messages that land in its memory, and lines that we listen on.

There is no processor to interrupt. A message (MSI-X) is a write to an address that the driver chooses, so it is aimed
at guest RAM, where it can be seen without asking QEMU; a line is what the qtest server tells of an interrupt controller
that it listens on instead (`irq_intercept_in`).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass

from hwloop.deadline import Deadline
from hwloop.hal.interrupt import Interrupt
from hwloop.qtest.client import QtestClient

_SPIN_SECONDS = 0.0002
_LONGEST_NAP = 0.001


@dataclass(frozen=True)
class Wiring:
    """Where the line of a device goes: `controller()` is the path of an interrupt controller in QEMU's tree of objects,
    and `lines` its inputs that can be meant; with several, whoever shares them is heard too. `kind` is `intx` or
    `mmio`."""

    kind: str
    controller: Callable[[], str]
    lines: frozenset[int]


class LineInterrupt(Interrupt):
    """A line; it stays raised until the device's interrupt status was read and acknowledged."""

    needs_ack = True

    def __init__(self, client: QtestClient, wiring: Wiring) -> None:
        self.kind = wiring.kind
        self._client = client
        self._lines = wiring.lines
        client.intercept_interrupts(wiring.controller())

    def wait(self, seconds: float) -> bool:
        return self._client.wait_raised(self._lines, seconds)

    def rearm(self) -> None:
        """Nothing to do: a line that is still raised shows in the next `wait`."""

    def close(self) -> None:
        """Nothing to do: QEMU cannot stop listening, and what it says is not waited for."""


class MessageInterrupt(Interrupt):
    """An MSI-X vector whose message is a word of guest RAM: `address` in our memory.

    `close` is what takes the vector from the function.
    """

    kind = "msix"
    needs_ack = False

    def __init__(self, address: int, release: Callable[[], None]) -> None:
        self._word = ctypes.c_uint32.from_address(address)
        self._word.value = 0
        self._release: Callable[[], None] | None = release

    def wait(self, seconds: float) -> bool:
        deadline = Deadline(seconds)
        spin_until = time.monotonic() + _SPIN_SECONDS
        nap = 0.0
        while self._release is not None:
            if self._word.value:
                # Before the caller looks at the ring: a message that comes from now on is another one.
                self._word.value = 0
                return True
            if deadline.expired():
                return False
            if time.monotonic() >= spin_until:
                nap = min(_LONGEST_NAP, nap * 2 + 0.00001)
                time.sleep(min(nap, deadline.remaining()))
        return False

    def rearm(self) -> None:
        """Nothing to do: a message that came meanwhile shows in the next `wait`."""

    def close(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()
