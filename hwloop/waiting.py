"""How a queue waits for its device: it polls, it sleeps on an interrupt, or it does the one and then the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from cython_ring import RingBroken
from hwloop.deadline import Deadline
from hwloop.errors import InvalidParam
from hwloop.hal.interrupt import Interrupt
from hwloop.spec import InterruptStatus

log = logging.getLogger("hwloop.queue")

POLL, IRQ, ADAPTIVE = MODES = ("poll", "irq", "adaptive")
"""`poll` asks the device for no interrupts, `irq` always for them, `adaptive` only while it sleeps, after a spin."""

_POLL_SPIN_NANOSECONDS = 100_000
_ADAPTIVE_SPIN_NANOSECONDS = 20_000
"""About what an interrupt costs: so a wait is never more than twice as dear as the better choice."""
_STORM = 1000
"""Interrupts in a row that bring nothing, within `_STORM_SECONDS`: then the interrupt is off for as long."""
_STORM_SECONDS = 1.0
_SHARED_SECONDS = 0.01
"""How long one of several queues sleeps on an interrupt that they share."""


class Ring(Protocol):
    """What is waited for: a ring of `cython_ring`."""

    def wait(self, timeout_ns: int, spin_ns: int) -> bool: ...
    def set_used_notifications(self, enabled: bool) -> None: ...


class Waiter:
    """Waits for `ring`. It polls until `use` gives it an interrupt.

    `interrupts` counts what came, `storms` how often there were so many for nothing that the interrupt was turned off
    for a second. `acknowledge` is what lowers a line that needs it; what it says of the configuration goes to
    `on_config`.
    """

    def __init__(self, ring: Ring, acknowledge: Callable[[], InterruptStatus]) -> None:
        self._ring = ring
        self._acknowledge = acknowledge
        self._line: Interrupt | None = None
        self._shared = False
        self.mode = POLL
        self.interrupts = 0
        self.storms = 0
        self.on_config: Callable[[], object] = _nothing
        self._for_nothing = 0
        self._counting_since = 0.0
        self._masked_until: float | None = None
        ring.set_used_notifications(False)

    @property
    def line(self) -> Interrupt | None:
        return self._line

    def use(self, line: Interrupt | None, mode: str = IRQ, *, shared: bool = False) -> None:
        """Wait on this interrupt from now on; None: poll. A `shared` one brings the events of other queues too.

        Raises InvalidParam for a mode that there is not.
        """
        if mode not in MODES:
            raise InvalidParam(f"there is no way to wait called {mode!r}", remedy=f"choose one of: {', '.join(MODES)}")
        self._line, self._shared = line, shared
        self.mode = POLL if line is None else mode
        self._masked_until = None
        with suppress(RingBroken):  # it asks for nothing any more
            self._ring.set_used_notifications(self.mode == IRQ)

    def fileno(self) -> int | None:
        """What is readable once the interrupt came; None where nothing is. `arm` before sleeping on it."""
        return self._line.fileno() if self._line is not None and self.mode != POLL else None

    def plain_fileno(self) -> int | None:
        """The same where it is an eventfd that brings one queue's events, and nothing is to be done afterwards."""
        line = self._line
        return self.fileno() if line is not None and not (line.needs_ack or self._shared) else None

    def arm(self) -> bool:
        """Have the device interrupt for what completes from now on. True when something has completed already, or
        nothing ever will: whoever reaps is told why."""
        try:
            if self.mode == ADAPTIVE:
                self._ring.set_used_notifications(True)
            return self._ring.wait(0, 0)
        except RingBroken:
            return True

    def disarm(self) -> None:
        """Nobody sleeps any more: take what came, and in adaptive mode ask for no more."""
        line = self._line
        if line is not None and line.take():
            self._answer(line)
        if self.mode == ADAPTIVE:
            with suppress(RingBroken):
                self._ring.set_used_notifications(False)

    def wait(self, seconds: float, ring: Ring | None = None) -> bool:
        """Wait for a used buffer, at most so long; False when there is none.

        An interrupt that was lost is no loss beyond `seconds`: the ring is looked at in the end. `ring` is what to ask
        in place of the ring itself: for a call of an engine, which holds that.
        """
        ring = ring or self._ring
        line = self._line if self.mode != POLL and not self._masked() else None
        if line is None:
            return ring.wait(int(seconds * 1e9), _POLL_SPIN_NANOSECONDS)
        if self.mode == IRQ:
            return ring.wait(0, 0) or self._sleep(line, seconds, ring)
        spin = min(_ADAPTIVE_SPIN_NANOSECONDS, int(seconds * 1e9))
        if ring.wait(spin, spin):
            return True
        ring.set_used_notifications(True)
        try:
            return ring.wait(0, 0) or self._sleep(line, seconds, ring)
        finally:
            ring.set_used_notifications(False)

    def wait_inside(self, seconds: float, ring: Ring) -> bool:
        """As `wait`, for a call of an engine. Where other queues take events of the interrupt too, it comes back soon:
        what they took may have been ours."""
        return self.wait(min(seconds, _SHARED_SECONDS) if self._shared else seconds, ring)

    def _sleep(self, line: Interrupt, seconds: float, ring: Ring) -> bool:
        deadline = Deadline(seconds)
        while line.wait(deadline.remaining()):
            self._answer(line)
            if ring.wait(0, 0):
                self._for_nothing = 0
                return True
            if self._is_storm():
                self._mask(line)
                return False
        return ring.wait(0, 0)

    def _answer(self, line: Interrupt) -> None:
        self.interrupts += 1
        if line.needs_ack and self._acknowledge() & InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT:
            self.on_config()
        line.rearm()

    # --- Interrupts that do not stop ----------------------------------------------------------------------------------

    def _is_storm(self) -> bool:
        now = time.monotonic()
        if not self._for_nothing or now - self._counting_since > _STORM_SECONDS:
            self._for_nothing, self._counting_since = 0, now
        self._for_nothing += 1
        return self._for_nothing >= _STORM

    def _mask(self, line: Interrupt) -> None:
        self.storms += 1
        log.warning("%d interrupts (%s) came for nothing: polling for %g s", _STORM, line.kind, _STORM_SECONDS)
        self._for_nothing = 0
        self._masked_until = time.monotonic() + _STORM_SECONDS
        if not self._shared:
            line.mask()

    def _masked(self) -> bool:
        """Whether the interrupt is off; when its time is over it is turned on again."""
        if self._masked_until is None:
            return False
        if time.monotonic() < self._masked_until:
            return True
        self._masked_until = None
        if self._line is not None and not self._shared:
            self._line.unmask()
        return False


def _nothing() -> None:
    """Nobody wants to know."""
