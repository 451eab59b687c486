"""hwloop as a Python program uses it, to be measured: `python -m bench.driver TIER TARGET [options]`.

A tier is a way to use it: `core` is the closed loop in Cython, `batch` calls submit and reap for batches, `call` is one
synchronous `read_into` a request, `each` submits and reaps one request a call. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import signal
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ours import Disk, opened
from hwloop.bench.loop import Loop
from hwloop.device.blk_queue import Batch

_LIFE_SECONDS = 60
_SECTORS = 1 << 12
_SPINS = {"poll": 1 << 22, "block": 1, "irq": 1}
"""Looks before a wait: hardly any, and then to nap (block), or to sleep on the interrupt."""
_CHECKS_A_CLOCK = 64


@dataclass(frozen=True)
class Load:
    """`depth` reads of `bytes_` in flight for so many seconds, in order or at random."""

    depth: int
    bytes_: int
    seconds: float
    in_order: bool
    wait: str
    batch: int = 0

    def sectors(self, disk: Disk) -> array[int]:
        """Where the reads begin: a list that is gone through again and again."""
        each = self.bytes_ // 512
        places = disk.queue.capacity // each
        if self.in_order:
            return array("Q", (place * each for place in range(min(places, _SECTORS))))
        source = random.Random(1)
        return array("Q", (source.randrange(places) * each for _ in range(_SECTORS)))


Tier = Callable[[Disk, Load, float], int]
"""Reads until the clock passes the end; returns how many requests completed."""


def core(disk: Disk, load: Load, end: float) -> int:
    loop = Loop(
        disk.queue,
        disk.alloc(load.depth * load.bytes_),
        block_bytes=load.bytes_,
        depth=load.depth,
        places=disk.queue.capacity * 512 // load.bytes_,
        at_random=not load.in_order,
        batch=load.batch or min(16, load.depth // 2),
        looks=_SPINS[load.wait],
        spin_ns=0,
    )
    loop.run(int(end * 1e9), 1 << 62)
    completed = loop.completed
    loop.drain()
    return completed


def batch(disk: Disk, load: Load, end: float) -> int:
    """Two batches of half the depth in turns: one is with the device while the other is made."""
    queue, half = disk.queue, max(1, load.depth // 2)
    buffer = disk.alloc(2 * half * load.bytes_)
    work, sectors = Batch(half), load.sectors(disk)
    pieces = itertools.cycle([sectors[at : at + half] for at in range(0, len(sectors) - half, half)])
    fill, clear, submit, reap, clock = work.reads, work.clear, queue.submit, queue.reap, time.monotonic
    places = itertools.cycle((0, half * load.bytes_))
    bytes_, completed = load.bytes_, 0

    def send() -> None:
        clear()
        fill(next(pieces), buffer, bytes_, next(places))
        submit(work)

    send()
    while clock() < end:
        for _ in range(_CHECKS_A_CLOCK):
            send()
            found = reap(half, half)
            if found.failed:
                found.raise_first()
            completed += half
    reap(half)
    return completed


def call(disk: Disk, load: Load, end: float) -> int:
    buffer, clock, read_into, completed = disk.alloc(load.bytes_), time.monotonic, disk.queue.read_into, 0
    sectors = itertools.cycle(load.sectors(disk))
    while clock() < end:
        for sector in itertools.islice(sectors, _CHECKS_A_CLOCK):
            read_into(sector, buffer)
        completed += _CHECKS_A_CLOCK
    return completed


def each(disk: Disk, load: Load, end: float) -> int:
    queue, bytes_ = disk.queue, load.bytes_
    buffer, clock, submit, poll = disk.alloc(load.depth * bytes_), time.monotonic, queue.submit_read, queue.poll
    sectors = itertools.cycle(load.sectors(disk))
    take, completed = sectors.__next__, 0
    for tag in range(load.depth):
        submit(take(), buffer, tag, tag * bytes_, bytes_)
    while clock() < end:
        for _ in range(_CHECKS_A_CLOCK):
            tags = poll()
            for tag in tags:
                submit(take(), buffer, tag, tag * bytes_, bytes_)
            completed += len(tags)
    queue.reap(load.depth)
    return completed


TIERS: dict[str, Tier] = {"core": core, "batch": batch, "call": call, "each": each}


# --- What it cost -----------------------------------------------------------------------------------------------------


def cpu_of(pid: int) -> float:
    """Processor time of all threads of a process, in seconds, as the scheduler counts it; 0 for none."""
    spent = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        spent += int(path.read_text().split()[0])
    return spent / 1e9


def measure(tier: Tier, disk: Disk, load: Load, device: int) -> dict[str, Any]:
    """Requests a second, and what driver and device had of a processor."""
    own, theirs, began = time.process_time(), cpu_of(device), time.monotonic()
    completed = tier(disk, load, began + load.seconds)
    passed = time.monotonic() - began
    return {
        "requests": completed,
        "seconds": passed,
        "iops": completed / passed,
        "driver_cpu": (time.process_time() - own) / passed,
        "device_cpu": (cpu_of(device) - theirs) / passed if device else float("nan"),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def words(tier: str, target: str, **options: Any) -> Iterator[str]:
    """The options of the command line, without the interpreter: `depth=32`, `in_order=True`."""
    yield from ("-m", "bench.driver", tier, target)
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            yield flag
        elif value is not False:
            yield from (flag, str(value))


def main() -> None:
    signal.alarm(_LIFE_SECONDS)
    parser = argparse.ArgumentParser()
    parser.add_argument("tier", choices=TIERS)
    parser.add_argument("target")
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--in-order", action="store_true")
    parser.add_argument("--wait", choices=_SPINS, default="poll")
    parser.add_argument(
        "--batch", type=int, default=0, help="submit when so many fit; half the depth, 16 at most, unless given"
    )
    parser.add_argument("--device", type=int, default=0, help="the device's process")
    given = parser.parse_args()
    load = Load(given.depth, given.bytes, given.seconds, given.in_order, given.wait, given.batch)
    with opened(given.target + ("?wait=irq" if given.wait == "irq" else "")) as disk:
        print(json.dumps(measure(TIERS[given.tier], disk, load, given.device)))


if __name__ == "__main__":
    main()
