"""What a measurement says: JSON with a stable schema, and remarks for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cython_ring.histogram import Histogram
from hwloop.bench.run import Measurement
from hwloop.bench.samples import Samples
from hwloop.signals import Interrupted
from hwloop.target import Target

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9, "p99_99": 99.99}


def as_json(measurement: Measurement, target: str, *, counted: bool) -> dict[str, Any]:
    """The result, without the number of its schema (docs/bench.md)."""
    workload = measurement.workload
    latencies = total_latencies(measurement)
    return {
        "target": target,
        "workload": workload.as_json(),
        "counted_accesses": counted,
        "seconds": round(measurement.seconds, 6),
        "ended_by": ended_by(measurement),
        "requests": measurement.requests,
        "iops": round(measurement.iops, 3),
        "bandwidth_bytes_per_second": round(measurement.iops * workload.block_bytes, 3),
        "most_in_flight": measurement.most_in_flight,
        "latency_us": latency_us(latencies),
        "reads": _direction(measurement.samples.totals[0]),
        "writes": _direction(measurement.samples.totals[1]),
        "cost_per_request": {
            name: None if value is None else round(value, 6)
            for name, value in measurement.costs.per_request(measurement.requests).items()
        },
        "samples": _samples(measurement.samples),
        "histogram_ns": {str(least): count for least, _, count in latencies.rows()},
        "notes": list(notes(measurement, target, counted=counted)),
    }


def total_latencies(measurement: Measurement) -> Histogram:
    """Of reads and writes together."""
    together = Histogram()
    for part in measurement.samples.totals:
        together.merge(part)
    return together


def latency_us(histogram: Histogram) -> dict[str, float]:
    """The figures of a histogram of nanoseconds, in microseconds."""
    percentiles = {name: histogram.percentile(percent) / 1000 for name, percent in PERCENTILES.items()}
    mean = round(histogram.mean / 1000, 3)
    return {"min": histogram.minimum / 1000, "mean": mean, **percentiles, "max": histogram.maximum / 1000}


def ended_by(measurement: Measurement) -> str | None:
    """What ended it early."""
    ending = measurement.ending
    if ending is None:
        return None
    return str(ending if isinstance(ending, Interrupted) else "ended by SIGINT").removeprefix("ended by ")


def notes(measurement: Measurement, target: str, *, counted: bool) -> Iterator[str]:
    """What has to be known of the figures."""
    workload = measurement.workload
    if measurement.ending is not None:
        yield f"ended early by {ended_by(measurement)}"
    if measurement.slow_because:
        yield f"requests were sent one call each: {measurement.slow_because}"
    if measurement.slow_because and workload.jobs > 1:
        yield f"{workload.jobs} threads share one queue, and take turns with it"
    wanted = min(workload.depth * workload.jobs, measurement.requests)
    if measurement.most_in_flight < wanted:
        yield f"no more than {measurement.most_in_flight} of {wanted} requests were in flight: the queue was full"
    if counted:
        yield "counting accesses takes time: compare only with runs that count them, too"
    if _is_in_process(Target.parse(target)):
        yield "the device runs in this process, and its work is in the figures"


def _is_in_process(target: Target) -> bool:
    image_in_process = target.options.get("trapped") != "on" and not target.name.startswith("0x")
    return target.kind == "fake" or (target.kind == "svirtb" and image_in_process)


def _direction(histogram: Histogram) -> dict[str, Any]:
    return {"requests": histogram.count, "latency_us": latency_us(histogram)}


def _samples(samples: Samples) -> dict[str, Any]:
    finished = samples.finished
    return {
        "seconds": samples.interval / 1e9,
        "iops": [round(sample.iops, 3) for sample in finished],
        "p50_us": [sample.p50_ns / 1000 for sample in finished],
        "p99_us": [sample.p99_ns / 1000 for sample in finished],
    }
