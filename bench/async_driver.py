"""hwloop under asyncio: `python -m bench.async_driver TARGET TASKS SECONDS DEVICE WAY`. Prints as `bench.driver` does.

So many tasks await one read of 4 KiB after another, at random. WAY is `queue` for AsyncQueue.read_into,
`batch` for AsyncQueue.submit of 32 at a time by a 32nd of the tasks, or `disk` for AsyncDisk.read, which gives bytes.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import cycle

import hwloop
from bench.driver import cpu_of
from hwloop.aio import AsyncDisk
from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_queue import Batch

BYTES = 4096
_BATCH = 32

Read = Callable[[int], Awaitable[object]]
"""Reads at a sector."""


def by_queue(disk: AsyncDisk) -> tuple[Read, int]:
    assert isinstance(disk.disk, VirtioBlk)
    buffer, read = disk.disk.alloc(BYTES), disk.queues[0].read_into
    return lambda sector: read(sector, buffer), 1


def by_batch(disk: AsyncDisk) -> tuple[Read, int]:
    assert isinstance(disk.disk, VirtioBlk)
    buffer, batch, submit = disk.disk.alloc(BYTES), Batch(_BATCH), disk.queues[0].submit

    def read(sector: int) -> Awaitable[object]:
        batch.clear()
        for _ in range(_BATCH):
            batch.read(sector, buffer)
        return submit(batch)

    return read, _BATCH


def by_disk(disk: AsyncDisk) -> tuple[Read, int]:
    return lambda sector: disk.read(sector, BYTES), 1


WAYS = {"queue": by_queue, "batch": by_batch, "disk": by_disk}


async def run(target: str, tasks: int, seconds: float, device: int, way: str) -> dict[str, float]:
    async with hwloop.aopen(target) as disk:
        places = disk.disk.size() // BYTES
        read, each = WAYS[way](disk)
        own, theirs, began = time.process_time(), cpu_of(device), time.monotonic()
        end = began + seconds

        async def task(number: int) -> int:
            source, completed = random.Random(number), 0
            sectors = cycle([8 * source.randrange(places) for _ in range(256)])
            while time.monotonic() < end:
                for _ in range(16):
                    await read(next(sectors))
                completed += 16 * each
            return completed

        completed = sum(await asyncio.gather(*(task(number) for number in range(tasks // each))))
        passed = time.monotonic() - began
        return {
            "iops": completed / passed,
            "driver_cpu": (time.process_time() - own) / passed,
            "device_cpu": (cpu_of(device) - theirs) / passed,
        }


def main() -> None:
    signal.alarm(60)
    target, tasks, seconds, device, way = sys.argv[1:]
    print(json.dumps(asyncio.run(run(target, int(tasks), float(seconds), int(device), way))))


if __name__ == "__main__":
    main()
