"""What is recorded while jobs run: the latencies of all of them, and a sample for each interval of the time."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass

from cython_ring.histogram import Histogram
from hwloop.bench.engine import Latencies

_SECOND = 1_000_000_000
_EVER = 1 << 62


@dataclass(frozen=True)
class Sample:
    """One interval: requests a second that completed in it, and what half and 99 % of them took at most."""

    iops: float
    p50_ns: int
    p99_ns: int


class Samples:
    """Joins what `jobs` threads record, each through a `Part` of its own, from `start` on (nanoseconds).

    `finished` has a sample of every whole interval that all jobs have passed; `totals` everything that was delivered.
    """

    def __init__(self, jobs: int, interval: int, start: int) -> None:
        self.interval, self.start = interval, start
        self.finished: list[Sample] = []
        self.totals: Latencies = (Histogram(), Histogram())
        self._lock = threading.Lock()
        self._open: defaultdict[int, Histogram] = defaultdict(Histogram)
        self._reached = [0] * jobs
        self._last = 0

    def deliver(self, job: int, index: int, latencies: Latencies, reached: int) -> None:
        """What a job has recorded in interval `index`; the next thing that it delivers is of interval `reached`."""
        with self._lock:
            for total, part in zip(self.totals, latencies, strict=True):
                total.merge(part)
                self._open[index].merge(part)
            self._reached[job] = reached
            self._finish(min(self._reached))

    def end(self, job: int, now: int) -> None:
        """A job has delivered its last. When it is the last one, the interval that has only begun is dropped."""
        with self._lock:
            self._last = max(self._last, (now - self.start) // self.interval)
            self._reached[job] = _EVER
            self._finish(min(*self._reached, self._last))

    def _finish(self, reached: int) -> None:
        for index in range(len(self.finished), reached):
            part = self._open.pop(index, None) or Histogram()
            iops = part.count * _SECOND / self.interval
            self.finished.append(Sample(iops, part.percentile(50), part.percentile(99)))


class Part:
    """What job number `job` records: `latencies` are those of the interval that its `advance` has reached."""

    def __init__(self, samples: Samples, job: int) -> None:
        self.latencies: Latencies = (Histogram(), Histogram())
        self._samples, self._job = samples, job
        self._index = 0
        self._until = samples.start + samples.interval

    @property
    def until(self) -> int:
        """When the interval ends, in nanoseconds."""
        return self._until

    def advance(self, now: int) -> None:
        """It is `now`: where an interval has ended, deliver it."""
        if now >= self._until:
            self._deliver((now - self._samples.start) // self._samples.interval)

    def end(self, now: int) -> None:
        """Deliver the rest: the job has ended."""
        self._deliver(self._index)
        self._samples.end(self._job, now)

    def _deliver(self, reached: int) -> None:
        samples = self._samples
        samples.deliver(self._job, self._index, self.latencies, reached)
        for part in self.latencies:
            part.clear()
        self._index, self._until = reached, samples.start + (reached + 1) * samples.interval
