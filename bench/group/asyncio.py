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


def rows(setting: Setting) -> Iterator[Row]:
    with null_device(fifo=setting.fifo) as device:
        words = ("-m", "bench.async_driver", device.target, str(TASKS), str(setting.seconds), str(device.pid))
        contest = rounds.hold([Contestant("asyncio", (sys.executable, *words))], setting.rounds, setting.fifo)
    rates = [sample.iops for sample in contest.samples["asyncio"]]
    yield Row(f"`await disk.read(...)`, {TASKS} outstanding", rates, 300_000, unit=" /s")
