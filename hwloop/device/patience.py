"""How long a driver waits for its device, and what it does on the way there."""

from __future__ import annotations

from dataclasses import dataclass

from hwloop.deadline import Deadline

_REMIND_SECONDS = 1.0


@dataclass
class Patience:
    """A deadline, whether the device was reminded on the way there, and whether a last look was taken at its end."""

    deadline: Deadline
    reminded: bool = False
    looked: bool = False

    def begin_again(self) -> None:
        """The whole time once more, for a device that had to be waited for before it could do anything."""
        self.deadline, self.reminded, self.looked = Deadline(self.deadline.seconds), False, False

    def is_over(self) -> bool:
        """Whether the time is over and the caller has looked once more since: a process that was not scheduled for a
        while must not fail a device that was in time."""
        if not self.deadline.expired():
            return False
        looked, self.looked = self.looked, True
        return looked

    def wants_another_notification(self) -> bool:
        """True once: after a second, or half of the time when that is less."""
        waited = self.deadline.seconds - self.deadline.remaining()
        if self.reminded or waited < min(_REMIND_SECONDS, self.deadline.seconds / 2):
            return False
        self.reminded = True
        return True
