"""4 KiB reads at random by tasks of asyncio, from a device that completes at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from bench import rounds
from bench.device import null_device
from bench.group.base import Setting
from bench.rounds import Contestant
from bench.row import Row

TASKS = 128
WAYS = {
    "queue": ("disk.queues[0].read_into(...)", 300_000),
    "batch": ("disk.queues[0].submit(batch_of_32)", None),
    "disk": ("disk.read(...)", None),
}
"""How bench.async_driver reads, the call, and what is wanted of it."""


def rows(setting: Setting) -> Iterator[Row]:
    with null_device(fifo=setting.fifo) as device:
        words = ("-m", "bench.async_driver", device.target, str(TASKS), str(setting.seconds), str(device.pid))
        ways = [Contestant(way, (sys.executable, *words, way)) for way in WAYS]
        contest = rounds.hold(ways, setting.rounds, setting.fifo)
    for way, (call, goal) in WAYS.items():
        rates = [sample.iops for sample in contest.samples[way]]
        yield Row(f"`await {call}`, {TASKS} outstanding", rates, goal, unit=" /s")
