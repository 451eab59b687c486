"""Ranges of a disk that somebody is changing; others wait who want the same bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class RangeLock:
    """Held for ranges of bytes: calls for ranges that overlap wait for one another, others do not."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: list[range] = []

    @contextmanager
    def hold(self, start: int, end: int) -> Iterator[None]:
        """Have `start` to `end` for the length of the block."""
        wanted = range(start, end)
        with self._changed:
            # Whoever holds one is waiting for the device, which has a deadline.
            self._changed.wait_for(lambda: not any(_overlap(wanted, held) for held in self._held))
            self._held.append(wanted)
        try:
            yield
        finally:
            with self._changed:
                self._held.remove(wanted)
                self._changed.notify_all()


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop
