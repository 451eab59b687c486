"""Samples of intervals: what several jobs record, joined."""

from __future__ import annotations

from hwloop.bench.samples import Part, Sample, Samples

SECOND = 1_000_000_000
START = 5 * SECOND


def started(jobs: int = 1) -> tuple[Samples, list[Part]]:
    samples = Samples(jobs, SECOND, START)
    return samples, [Part(samples, job) for job in range(jobs)]


def at(seconds: float) -> int:
    return START + int(seconds * SECOND)


def record(part: Part, *values: int, write: bool = False) -> None:
    for value in values:
        part.latencies[write].record(value)


def test_an_interval_is_a_sample_when_it_has_ended() -> None:
    samples, (part,) = started()
    record(part, 10, 20, 30)
    part.advance(at(0.999))
    assert samples.finished == []
    part.advance(at(1))
    assert samples.finished == [Sample(3.0, 20, 30)]


def test_reads_and_writes_are_one_sample_and_two_totals() -> None:
    samples, (part,) = started()
    record(part, 10)
    record(part, 20, 30, write=True)
    part.end(at(1))
    assert samples.finished == [Sample(3.0, 20, 30)]
    assert [total.count for total in samples.totals] == [1, 2]


def test_an_interval_in_which_nothing_completed_is_a_sample_of_nothing() -> None:
    samples, (part,) = started()
    record(part, 10)
    part.advance(at(1))
    part.advance(at(3.5))
    record(part, 40)
    part.advance(at(4))
    assert samples.finished == [Sample(1.0, 10, 10), Sample(0.0, 0, 0), Sample(0.0, 0, 0), Sample(1.0, 40, 40)]


def test_an_interval_waits_for_the_slowest_job() -> None:
    samples, (first, second) = started(2)
    record(first, 10)
    first.advance(at(1))
    record(first, 10)
    first.advance(at(2))
    assert samples.finished == []
    record(second, 30)
    second.advance(at(1))
    assert samples.finished == [Sample(2.0, 10, 30)]


def test_a_job_that_has_ended_is_not_waited_for() -> None:
    samples, (first, second) = started(2)
    record(first, 10)
    first.end(at(0.5))
    record(second, 20)
    second.advance(at(1))
    assert samples.finished == [Sample(2.0, 10, 20)]
    second.advance(at(2))
    second.end(at(2))
    assert samples.finished == [Sample(2.0, 10, 20), Sample(0.0, 0, 0)]


def test_an_interval_that_has_only_begun_is_in_the_totals_and_is_no_sample() -> None:
    samples, (part,) = started()
    record(part, 10)
    part.advance(at(1))
    record(part, 20, 20)
    part.end(at(1.5))
    assert len(samples.finished) == 1
    assert samples.totals[0].count == 3
