"""The trace of one test: of every device that it opens, in files beside the test's own."""

from __future__ import annotations

from pathlib import Path

from hwloop import session
from hwloop.filter.file import Trace
from hwloop.filter.text import lines
from hwloop.filter.trace import TraceFilter, TraceMaker
from hwloop.owner import Owner

LINES = 60
"""How many lines of a trace a failing test shows; the file has all of them."""


class DeviceTrace(Owner):
    """Traces every device that is opened until `close`: the first into `path`, others into PATH.2 and on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._targets: list[str] = []
        self._make = TraceMaker(str(path))
        session.EVERY_DEVICE.append(self._trace)

    def close(self) -> None:
        """Idempotent. What is open is traced until it is closed."""
        if self._trace in session.EVERY_DEVICE:
            session.EVERY_DEVICE.remove(self._trace)

    def paths(self) -> list[Path]:
        """The files, in the order in which their devices were opened."""
        return [self.path if not number else Path(f"{self.path}.{number + 1}") for number in range(len(self._targets))]

    def lines(self, device: int = 0) -> list[str]:
        """What happened so far to the first device, or to that of this number: a line an event."""
        return lines(Trace.read(self.paths()[device]).events())

    def sections(self) -> list[tuple[str, str]]:
        """For the report of a test: a heading and the last lines, one pair a device."""
        return [self._section(number) for number in range(len(self._targets))]

    def _section(self, number: int) -> tuple[str, str]:
        found = self.lines(number)
        where = f"{len(found)} events in all: hwloop trace show {self.paths()[number]}"
        return f"hwloop trace of {self._targets[number]}", "\n".join([*found[-LINES:], where])

    def _trace(self, target: str) -> TraceFilter:
        made = self._make(target)
        self._targets.append(target)
        return made
