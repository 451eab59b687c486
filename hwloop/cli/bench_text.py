"""What `hwloop bench` prints for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from cython_ring.histogram import Histogram
from hwloop.bench.compare import Comparison, Spread, Verdict
from hwloop.cli.table import plain_lines
from hwloop.size import format_size

_BAR = 40
_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1, "ns"))
_COSTS = {
    "notifications": "notifications",
    "interrupts": "interrupts",
    "register_accesses": "register accesses",
    "read_write_syscalls": "read and write system calls",
    "context_switches": "waits in the kernel",
    "bytes_copied": "bytes copied",
    "cpu_us": "us of processor time",
}


def report(found: dict[str, Any], latencies: Histogram, comparison: Comparison | None) -> Iterator[str]:
    """The result as lines; `found` is `bench.result.as_json`."""
    yield _headline(found)
    yield ""
    yield from plain_lines(("", ""), list(_figures(found)))[1:]
    yield ""
    yield from _histogram(latencies)
    for note in found["notes"]:
        yield f"note: {note}"
    if comparison is not None:
        yield ""
        yield from _compared(comparison)


def time_text(nanoseconds: float) -> str:
    """Three digits at least: `512 ns`, `27.1 us`, `1.25 ms`."""
    size, unit = next((entry for entry in _UNITS if nanoseconds >= entry[0]), _UNITS[-1])
    value = nanoseconds / size
    return f"{value:.{0 if value >= 100 or size == 1 else 1 if value >= 10 else 2}f} {unit}"


def _headline(found: dict[str, Any]) -> str:
    load = found["workload"]
    jobs = f", {load['jobs']} jobs" if load["jobs"] > 1 else ""
    mix = f" ({load['read_percent']} % reads)" if load["rw"] == "randrw" else ""
    return (
        f"{found['target']}: {load['rw']}{mix}, {format_size(load['block_bytes'])}, depth {load['depth']}{jobs}, "
        f"{load['wait']}, {found['seconds']:.3g} s, seed {load['seed']}"
    )


def _figures(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "requests", f"{found['requests']:,}"
    spread = _spread_text(found["samples"]["iops"])
    yield "IOPS", f"{found['iops']:,.0f}{spread}"
    yield "bandwidth", f"{format_size(int(found['bandwidth_bytes_per_second']))}/s"
    yield "latency", _latency_text(found["latency_us"])
    if found["reads"]["requests"] and found["writes"]["requests"]:
        for name in ("reads", "writes"):
            yield name, _latency_text(found[name]["latency_us"])
    yield "a request", _costs_text(found["cost_per_request"])


def _spread_text(samples: list[float]) -> str:
    if len(samples) < 2:
        return ""
    spread = Spread.of(samples)
    return f"  (half of {len(samples)} samples: {spread.low:,.0f} to {spread.high:,.0f})"


def _latency_text(latency: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', '.')} {time_text(value * 1000)}" for name, value in latency.items())


def _costs_text(costs: dict[str, float | None]) -> str:
    return ", ".join(f"{costs[name]:.4g} {words}" for name, words in _COSTS.items() if costs[name] is not None)


# --- The histogram ----------------------------------------------------------------------------------------------------


def _histogram(latencies: Histogram) -> Iterator[str]:
    """A line for each power of two of nanoseconds, from the first to the last that has any."""
    octaves: Counter[int] = Counter()
    for least, _, count in latencies.rows():
        octaves[least.bit_length()] += count
    if not octaves:
        return
    most = max(octaves.values())
    for bits in range(min(octaves), max(octaves) + 1):
        share = octaves[bits] / latencies.count
        bar = "#" * -(-_BAR * octaves[bits] // most)
        yield f"{'under ' + time_text(1 << bits):>15}  {share:8.3%}  {bar}".rstrip()


# --- A comparison -----------------------------------------------------------------------------------------------------


def _compared(comparison: Comparison) -> Iterator[str]:
    yield f"against {comparison.old_target}, medians and the middle half of the samples:"
    rows = [_verdict_row(verdict) for verdict in comparison.verdicts]
    yield from plain_lines(("figure", "old", "new", "change", "verdict"), rows)
    for difference in comparison.differences:
        yield f"note: another workload: {difference}"


def _verdict_row(verdict: Verdict) -> tuple[str, str, str, str, str]:
    change = "" if verdict.change is None else f"{verdict.change:+.1%}"
    return verdict.figure, _pair_text(verdict.old), _pair_text(verdict.new), change, verdict.verdict


def _pair_text(spread: Spread | None) -> str:
    if spread is None:
        return "no samples"
    return f"{spread.median:,.6g} ({spread.low:,.6g} to {spread.high:,.6g})"
