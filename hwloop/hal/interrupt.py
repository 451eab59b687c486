"""The line or message by which a device calls its driver, as a Hal offers it."""

from __future__ import annotations

from abc import abstractmethod

from hwloop.owner import Owner


class Interrupt(Owner):
    """One interrupt of one device. `kind` is `intx`, `msi`, `msix`, `mmio` or `eventfd`.

    `needs_ack`: the device holds its line until its interrupt status was read (and, on MMIO, acknowledged), so the
    driver calls `Transport.ack_interrupt` before `rearm`.
    """

    kind = ""
    needs_ack = True

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Wait at most so long; True when the device has interrupted since the last time. Raises DeviceLost."""

    @abstractmethod
    def rearm(self) -> None:
        """Let the device interrupt again. An interrupt that came meanwhile shows in the next `wait`."""

    def fileno(self) -> int | None:
        """A descriptor that is readable once the device has interrupted, for `select` and its kind; it is read by
        `take` only. None where there is none."""
        return None

    def take(self) -> bool:
        """As `wait`, without waiting."""
        return self.wait(0)

    def mask(self) -> None:
        """Keep the device from interrupting, where that can be done, until `unmask`: for one that does not stop."""

    def unmask(self) -> None:
        """The opposite of `mask`."""
        self.rearm()
