"""One job, with an engine and a clock of the test: every figure is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hwloop.bench.engine import Engine, Latencies
from hwloop.bench.job import Job, Outcome, Window
from hwloop.bench.samples import Part, Samples
from hwloop.bench.workload import Operation, Pattern, Workload
from hwloop.errors import IoError

MILLISECOND, SECOND = 1_000_000, 1_000_000_000
WORKLOAD = Workload("randrw", size=1 << 20)


class SteadyEngine(Engine):
    """Has room for `room` requests, and completes `pace` of them a millisecond, the oldest first; `now` is its clock.

    After `good` completions one fails.
    """

    def __init__(self, room: int = 1 << 30, pace: int = 1, good: int = 1 << 30) -> None:
        self.room, self.pace, self.good = room, pace, good
        self.now = 0
        self.seen: list[Operation] = []
        self.queue: list[tuple[bool, int]] = []

    def clock(self) -> int:
        return self.now

    def submit(self, operations: Sequence[Operation]) -> int:
        accepted = operations[: self.room - self.in_flight]
        self.seen += accepted
        self.queue += [(write, self.now) for write, _ in accepted]
        self.in_flight = len(self.queue)
        return len(accepted)

    def reap(self, latencies: Latencies) -> int:
        self.now += MILLISECOND
        done, self.queue = self.queue[: self.pace], self.queue[self.pace :]
        self.in_flight = len(self.queue)
        for write, began in done:
            self.copied += 4096
            self.good -= 1
            if self.good < 0:
                raise IoError("it failed")
            latencies[write].record(self.now - began)
        return len(done)


def ran(
    engine: SteadyEngine, depth: int = 1, seconds: float = 1.0, requests: int = 1 << 30, workload: Workload = WORKLOAD
) -> tuple[Outcome, Samples]:
    samples = Samples(1, SECOND // 10, 0)
    window = Window(0, int(seconds * SECOND), requests)
    outcome = Job(engine, Pattern(workload, 0), depth, engine.clock).run(window, Part(samples, 0))
    return outcome, samples


def test_one_at_a_time_every_millisecond_is_a_thousand_a_second() -> None:
    outcome, samples = ran(SteadyEngine())
    assert (outcome.requests, outcome.in_window, outcome.rate, outcome.most_in_flight) == (1000, 1000, 1000.0, 1)
    assert [sample.iops for sample in samples.finished] == [1000.0] * 10
    assert {(sample.p50_ns, sample.p99_ns) for sample in samples.finished} == {(MILLISECOND, MILLISECOND)}


def test_what_is_in_flight_at_the_end_is_in_the_latencies_and_not_in_the_rate() -> None:
    outcome, samples = ran(SteadyEngine(), depth=32)
    assert (outcome.in_window, outcome.rate) == (1000, 1000.0)
    assert outcome.requests == 1031
    assert sum(total.count for total in samples.totals) == 1031
    assert max(total.maximum for total in samples.totals) == 32 * MILLISECOND


def test_the_depth_is_kept_and_never_exceeded() -> None:
    engine = SteadyEngine(pace=3)
    outcome, _ = ran(engine, depth=8)
    assert outcome.most_in_flight == 8
    assert outcome.rate == pytest.approx(3000)


def test_an_engine_with_less_room_gets_what_fits_and_loses_nothing() -> None:
    small, large = SteadyEngine(room=4), SteadyEngine()
    outcome, _ = ran(small, depth=32, requests=500)
    ran(large, depth=32, requests=500)
    assert outcome.most_in_flight == 4
    assert small.seen == large.seen
    assert len(small.seen) == 500


def test_so_many_requests_and_no_more_and_the_last_ones_belong_to_it() -> None:
    outcome, samples = ran(SteadyEngine(), depth=16, requests=100)
    assert (outcome.requests, outcome.in_window, outcome.rate) == (100, 100, 1000.0)
    assert sum(total.count for total in samples.totals) == 100
    assert len(samples.finished) == 1


def test_reads_and_writes_are_told_apart() -> None:
    engine = SteadyEngine()
    _, samples = ran(engine, requests=300)
    writes = sum(write for write, _ in engine.seen)
    assert [total.count for total in samples.totals] == [300 - writes, writes]
    assert 0 < writes < 300


def test_a_stopped_job_drains_and_tells_what_it_did() -> None:
    engine = SteadyEngine()
    samples = Samples(1, SECOND, 0)
    window = Window(0, 100 * SECOND, 1 << 30)
    engine_reap = engine.reap

    def reap_and_stop(latencies: Latencies) -> int:
        if engine.now == 49 * MILLISECOND:
            window.stop.set()
        return engine_reap(latencies)

    engine.reap = reap_and_stop  # type: ignore[method-assign]
    outcome = Job(engine, Pattern(WORKLOAD, 0), 4, engine.clock).run(window, Part(samples, 0))
    assert (outcome.in_window, outcome.requests, outcome.nanoseconds) == (50, 53, 50 * MILLISECOND)
    assert engine.in_flight == 0


def test_copies_of_an_earlier_phase_are_not_counted() -> None:
    engine = SteadyEngine()
    engine.copied = 1 << 40
    assert ran(engine, requests=10)[0].copied == 10 * 4096


def test_a_request_that_fails_ends_it() -> None:
    with pytest.raises(IoError, match="it failed"):
        ran(SteadyEngine(good=20))
