"""One thread of a measurement: it keeps requests in flight until its time is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hwloop.bench.cost import OF_LOOKING, Costs
from hwloop.bench.engine import Engine
from hwloop.bench.samples import Part
from hwloop.bench.workload import Operation, Pattern

_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Window:
    """When jobs stop to submit: at `end` (nanoseconds), after so many `requests` each, or when `stop` is set."""

    start: int
    end: int
    requests: int
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Outcome:
    """`requests` were submitted, and all have completed, `in_window` of them in the `nanoseconds` of the window.

    `copied` are the bytes that the engine copied; `costs` what the thread used.
    """

    requests: int
    in_window: int
    nanoseconds: int
    most_in_flight: int
    copied: int
    costs: Costs

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.in_window * _SECOND / self.nanoseconds if self.nanoseconds else 0.0


class Job:
    """`depth` requests of a pattern in flight, one engine, which is asked request by request."""

    def __init__(
        self, engine: Engine, pattern: Pattern, depth: int, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._engine, self._pattern, self._depth, self._clock = engine, pattern, depth, clock
        self._submitted = self._most_in_flight = 0

    def run(self, window: Window, part: Part) -> Outcome:
        """Raises what the engine raises."""
        before = Costs.of_thread()
        copied = self._engine.copied
        now = self._keep_busy(window, part)
        in_window = self._submitted - self._engine.in_flight
        self._drain(part)
        if self._submitted >= window.requests:
            # Nothing was cut off: the last ones belong to it as the first ones do.
            now, in_window = self._clock(), self._submitted
        part.end(now)
        used = Costs.of_thread() - before - OF_LOOKING
        copied = self._engine.copied - copied
        return Outcome(self._submitted, in_window, now - window.start, self._most_in_flight, copied, used)

    def _keep_busy(self, window: Window, part: Part) -> int:
        """Returns when it ended."""
        engine, waiting = self._engine, list[Operation]()
        while (now := self._clock()) < window.end and not window.stop.is_set() and self._submitted < window.requests:
            part.advance(now)
            room = min(self._depth - engine.in_flight, window.requests - self._submitted)
            if len(waiting) < room:
                waiting += self._pattern.take(room - len(waiting))
            taken = engine.submit(waiting[:room])
            del waiting[:taken]
            self._submitted += taken
            self._most_in_flight = max(self._most_in_flight, engine.in_flight)
            engine.reap(part.latencies)
        part.advance(now)
        return now

    def _drain(self, part: Part) -> None:
        while self._engine.in_flight:
            self._engine.reap(part.latencies)
