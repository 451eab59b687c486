"""The interrupts of a machine in process: a line and messages, as strict as a function's on a bus.

A line is a level: it interrupts until the device lowers it, and after each time only when it is armed again. Messages
are edges, and while they are on the line is silent (PCI 3.0, 6.8).
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import ExitStack

from hwloop.errors import AlreadyUsed, InvalidParam
from hwloop.hal.eventfd_interrupt import new_eventfd, take_events
from hwloop.hal.interrupt import Interrupt


class FakeInterrupts:
    """Of one device, which has so many `vectors` (0: no MSI-X) and a line, or none.

    `sent` lists the vectors of all messages, `lost` those that nobody had opened. `switch` is called when messages are
    turned on and off. `lose` is how many further interrupts are on their way and never arrive.
    """

    def __init__(self, vectors: int = 0, *, line: bool = True) -> None:
        self.count = vectors
        self.has_line = line
        self.sent: list[int] = []
        self.lost: list[int] = []
        self.lose = 0
        self.raised = False
        self.switch: Callable[[bool], object] = _nothing
        self._open: dict[int | None, FakeInterrupt] = {}

    # --- The device's side --------------------------------------------------------------------------------------------

    def send(self, vector: int | None) -> bool:
        """Send a message, unless the event has no vector; False while messages are off."""
        if not self.enabled:
            return False
        if vector is not None:
            self.sent.append(vector)
            self._arrive(vector)
        return True

    def set_line(self, raised: bool) -> None:
        """Raise or lower the line."""
        before, self.raised = self.raised, raised
        if raised and not before and not self.enabled:
            self._arrive(None)

    def _arrive(self, vector: int | None) -> None:
        line = self._open.get(vector)
        if self.lose:
            self.lose -= 1
        elif line is not None:
            line.fire()
        elif vector is not None:
            self.lost.append(vector)

    # --- The driver's side --------------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Whether messages are on: somebody has opened a vector."""
        return any(vector is not None for vector in self._open)

    def open(self, vector: int | None) -> FakeInterrupt | None:
        """Raises InvalidParam for a vector that there is not, AlreadyUsed."""
        if not (self.has_line if vector is None else self.count):
            return None
        if vector is not None and not 0 <= vector < self.count:
            raise InvalidParam(f"the fake device has no vector {vector}", remedy=f"it has 0 to {self.count - 1}")
        if vector in self._open:
            raise AlreadyUsed(f"the interrupt of the fake device (vector {vector}) is in use already")
        was_on = self.enabled
        line = self._open[vector] = FakeInterrupt(self, vector)
        if self.enabled != was_on:
            self.switch(True)
        if vector is None and self.raised and not self.enabled:
            line.fire()
        return line

    def forget(self, vector: int | None) -> None:
        was_on = self.enabled
        del self._open[vector]
        if self.enabled != was_on:
            self.switch(False)


class FakeInterrupt(Interrupt):
    """The line (`vector` None), or a message. `masked` until it is armed again, as the kernel leaves a line."""

    def __init__(self, interrupts: FakeInterrupts, vector: int | None) -> None:
        self.kind = "intx" if vector is None else "msix"
        self.needs_ack = vector is None
        self.masked = False
        self.masks = 0
        self._vector = vector
        self._interrupts: FakeInterrupts | None = interrupts
        self._pending = False
        self._resources = ExitStack()
        self._eventfd = new_eventfd(self._resources)
        self._poll = select.poll()
        self._poll.register(self._eventfd, select.POLLIN)

    def fire(self) -> None:
        if self.masked:
            # Of a message the function remembers that it came (PCI 3.0, 6.8.3.4); a line is still there.
            self._pending = True
            return
        self.masked = self._vector is None
        os.eventfd_write(self._eventfd, 1)

    def fileno(self) -> int:
        return self._eventfd

    def wait(self, seconds: float) -> bool:
        return self._interrupts is not None and bool(self._poll.poll(max(0.0, seconds) * 1000)) and self.take()

    def take(self) -> bool:
        return self._interrupts is not None and take_events(self._eventfd)

    def rearm(self) -> None:
        if self._vector is None:
            self._unmask()

    def mask(self) -> None:
        self.masks += 1
        self.masked = True

    def unmask(self) -> None:
        self._unmask()

    def close(self) -> None:
        interrupts, self._interrupts = self._interrupts, None
        if interrupts is not None:
            interrupts.forget(self._vector)
            self._resources.close()

    def _unmask(self) -> None:
        self.masked = False
        pending, self._pending = self._pending, False
        level = self._interrupts is not None and self._interrupts.raised
        if level if self._vector is None else pending:
            self.fire()


def _nothing(on: bool) -> None:
    """Nobody has a switch to turn."""
