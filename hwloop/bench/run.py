"""A measurement from its first request to its last: warm-up, threads, and what they found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hwloop.bench.cost import Costs, CountedPlace, Meter
from hwloop.bench.engine import RequestEngine, choose_waiting
from hwloop.bench.job import Job, Outcome, Window
from hwloop.bench.loop_job import LoopJob, why_not
from hwloop.bench.samples import Part, Sample, Samples
from hwloop.bench.workload import Pattern, Workload
from hwloop.device.blk import VirtioBlk
from hwloop.errors import InvalidParam
from hwloop.signals import Interrupted, shield

if TYPE_CHECKING:
    from hwloop.device.block import BlockDevice

_SECOND = 1_000_000_000
_LONGEST_INTERVAL, _SHORTEST_INTERVAL, _INTERVALS = 1.0, 0.05, 20
_ENDLESS = 1 << 62

Watcher = Callable[[float, Sample | None], None]
"""Is told now and then how many seconds have passed, and the newest sample."""


@dataclass(frozen=True)
class Measurement:
    """What was found. `requests` were measured; `iops` are those that completed while requests were being submitted,
    over `seconds`; `latencies` of reads and of writes are of all requests, also of those that completed afterwards.

    `ending` is the exception of the signal that ended it early, or None; `slow_because` why requests were not sent by
    the loops of the queues, one for each job, but one call each through the first queue.
    """

    workload: Workload
    seconds: float
    requests: int
    iops: float
    most_in_flight: int
    costs: Costs
    samples: Samples
    ending: BaseException | None = None
    slow_because: str = ""


Runner = Callable[[str, Window, Part], Outcome]
"""Runs the job of one thread in the phase of that name."""


class Run:
    """Measures a disk, as a workload that fits it says; `counted` is the place through which it was opened, if that
    counts.

    Each job has a queue to itself, and needs no interpreter, where the disk has queues and nobody looks at its
    requests; `clock` is for where it has none. Raises InvalidParam for more jobs than queues, and what `Workload.on`
    and `choose_waiting` raise.
    """

    def __init__(
        self,
        disk: BlockDevice,
        workload: Workload,
        counted: CountedPlace | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.workload = workload.on(disk)
        choose_waiting(disk, workload.wait)
        self._meter = Meter(disk, counted)
        self._counts_copies = counted is not None
        self._clock = clock
        self._slow_because = why_not(disk, self.workload)
        self._runners = [self._runner(disk, job) for job in range(workload.jobs)]

    def warm_up(self, seconds: float) -> None:
        """The same as `measure`, and forgotten. Raises what ended it early."""
        if seconds:
            ending = self._phase("warm-up", seconds, None, lambda passed, sample: None).ending
            if ending is not None:
                raise ending

    def measure(
        self, seconds: float, requests: int | None = None, watch: Watcher = lambda passed, sample: None
    ) -> Measurement:
        """Run for so many seconds, or until so many requests were submitted; Ctrl-C ends it early.

        `watch` is called in this thread. Raises what a request failed with, and DeviceLost, DeadlineExpired.
        """
        return self._phase("", seconds, requests, watch)

    # --- Private ------------------------------------------------------------------------------------------------------

    def _runner(self, disk: BlockDevice, job: int) -> Runner:
        workload = self.workload
        if isinstance(disk, VirtioBlk) and not self._slow_because:
            if workload.jobs > len(disk.queues):
                raise InvalidParam(
                    f"{workload.jobs} jobs need a queue each, and the disk was opened with {len(disk.queues)}",
                    remedy=f"open it with queues={workload.jobs}, or choose fewer jobs",
                )
            return LoopJob(disk, workload, job).run
        engine = RequestEngine(disk, workload, job, self._clock)
        return lambda phase, window, part: Job(engine, Pattern(workload, job, phase), workload.depth, self._clock).run(
            window, part
        )

    def _phase(self, name: str, seconds: float, requests: int | None, watch: Watcher) -> Measurement:
        """Everything that is submitted has completed at its end, so that counters are exact."""
        workload = self.workload
        before = self._meter.read()
        start = self._clock()
        samples = Samples(workload.jobs, _interval(seconds), start)
        stop = threading.Event()
        crew = _Crew(stop, [
            _Worker(
                partial(runner, name),
                Window(start, start + int(seconds * _SECOND), _share(requests, job, workload.jobs), stop),
                Part(samples, job),
            )
            for job, runner in enumerate(self._runners)
        ])  # fmt: skip
        ending = crew.work(samples, lambda: watch((self._clock() - start) / _SECOND, _newest(samples)))
        outcomes = crew.outcomes()
        return Measurement(
            workload,
            seconds=max(outcome.nanoseconds for outcome in outcomes) / _SECOND,
            requests=sum(outcome.requests for outcome in outcomes),
            iops=sum(outcome.rate for outcome in outcomes),
            most_in_flight=sum(outcome.most_in_flight for outcome in outcomes),
            costs=self._costs(self._meter.read() - before, outcomes),
            samples=samples,
            ending=ending,
            slow_because=self._slow_because,
        )

    def _costs(self, counted: Costs, outcomes: Sequence[Outcome]) -> Costs:
        costs = sum((outcome.costs for outcome in outcomes), counted)
        if not self._counts_copies:
            return costs
        return costs + Costs(bytes_copied=sum(outcome.copied for outcome in outcomes))


class _Worker(threading.Thread):
    """A job's thread: `outcome`, or the `failure` that ended it and stopped the others."""

    def __init__(self, job: Callable[[Window, Part], Outcome], window: Window, part: Part) -> None:
        super().__init__(name="bench job")
        self._job, self._window, self._part = job, window, part
        self.outcome: Outcome | None = None
        self.failure: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            self.outcome = self._job(self._window, self._part)
        except BaseException as failure:
            self.failure = failure
            self._window.stop.set()
        finally:
            self.ended.set()


class _Crew:
    """The threads of a phase, which `stop` ends."""

    def __init__(self, stop: threading.Event, workers: Sequence[_Worker]) -> None:
        self._stop, self._workers = stop, workers

    def work(self, samples: Samples, watch: Callable[[], None]) -> BaseException | None:
        """Run them until they end; returns the signal's exception when one ended them early.

        However this is left, no thread is: each of their waits has a deadline.
        """
        try:
            with shield():
                for worker in self._workers:
                    worker.start()
            for worker in self._workers:
                while not worker.ended.wait(samples.interval / _SECOND):
                    watch()
            watch()
        except (KeyboardInterrupt, Interrupted) as ending:
            return ending
        finally:
            # Not where a signal can come: Python 3.11 takes a thread whose join was interrupted for one that has ended.
            with shield():
                self._stop.set()
                for worker in self._workers:
                    if worker.ident is not None:
                        worker.join()
        return None

    def outcomes(self) -> list[Outcome]:
        """Raises the first failure that there was."""
        for worker in self._workers:
            if worker.failure is not None:
                raise worker.failure
        return [worker.outcome for worker in self._workers if worker.outcome is not None]


def _interval(seconds: float) -> int:
    """Of a sample, in nanoseconds: a second, or less for a short run, so that there are enough to see their spread."""
    return int(min(_LONGEST_INTERVAL, max(_SHORTEST_INTERVAL, seconds / _INTERVALS)) * _SECOND)


def _share(requests: int | None, job: int, jobs: int) -> int:
    return _ENDLESS if requests is None else requests // jobs + (job < requests % jobs)


def _newest(samples: Samples) -> Sample | None:
    return samples.finished[-1] if samples.finished else None
