"""hwloop under asyncio: `python -m bench.async_driver TARGET TASKS SECONDS DEVICE`. Prints what `bench.driver` prints.

So many tasks await one read of 4 KiB after another, at random.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time

import hwloop
from bench.driver import cpu_of

BYTES = 4096


async def run(target: str, tasks: int, seconds: float, device: int) -> dict[str, float]:
    async with hwloop.aopen(target) as disk:
        places = disk.disk.size() // BYTES
        own, theirs, began = time.process_time(), cpu_of(device), time.monotonic()
        end = began + seconds

        async def task(number: int) -> int:
            source, completed = random.Random(number).randrange, 0
            while time.monotonic() < end:
                await disk.read(8 * source(places), BYTES)
                completed += 1
            return completed

        completed = sum(await asyncio.gather(*(task(number) for number in range(tasks))))
        passed = time.monotonic() - began
        return {
            "iops": completed / passed,
            "driver_cpu": (time.process_time() - own) / passed,
            "device_cpu": (cpu_of(device) - theirs) / passed,
        }


def main() -> None:
    signal.alarm(60)
    target, tasks, seconds, device = sys.argv[1:]
    print(json.dumps(asyncio.run(run(target, int(tasks), float(seconds), int(device)))))


if __name__ == "__main__":
    main()
