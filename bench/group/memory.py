"""128 KiB in order from a disk in memory: the device copies every byte, and the memory is the limit."""

from __future__ import annotations

from collections.abc import Iterator

from bench import rounds
from bench.device import null_device
from bench.group.base import Setting, libblkio, ours, ratio
from bench.row import Row

DEPTH, BYTES = 4, 128 << 10


def rows(setting: Setting) -> Iterator[Row]:
    with null_device("-m", "-s", "512", fifo=setting.fifo) as device:
        theirs = libblkio(device, setting, DEPTH, "-b", str(BYTES), "-q")
        tiers = [ours(tier, device, setting, depth=DEPTH, bytes=BYTES, in_order=True) for tier in ("core", "batch")]
        contest = rounds.hold([theirs, *tiers], setting.rounds, setting.fifo)
    base = f"libblkio poll {DEPTH}"
    for tier, name in (("core", "core loop"), ("batch", "Python, batches,")):
        row = ratio(contest, f"{name} over libblkio's C loop, 128 KiB in order, depth 4", f"{tier} {DEPTH}", base, 0.98)
        yield Row(row.measure, row.values, row.goal, notes=_bandwidth(contest.rate(f"{tier} {DEPTH}")) + row.notes)


def _bandwidth(rate: float) -> str:
    return f"{rate * BYTES / 1e9:.2f} GB/s; "
