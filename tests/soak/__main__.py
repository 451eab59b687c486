"""`python -m tests.soak [--seconds S] [--seed N]`: a mixed load with faults, over every kind of disk that runs here.

Disk after disk is opened, used, hit by faults, recovered and closed. What was written must be read, and in the end the
process must have no more memory, descriptors, threads or mappings than after the first minutes. Prints the figures.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwloop.errors import HwloopError
from hwloop.hal import base
from hwloop.hal.base import BounceHal
from tests.soak.load import Load
from tests.soak.rigs import RIGS, Fault, Rig, running

TURNS = 40
"""Of a disk, before it is closed; every fourth or so has a fault."""
WARM_UP = 0.25
MOST_GROWTH = 24 << 20
"""Bytes of memory: an allocator keeps some of what it is given back, and a leak of a page a disk would be more."""
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """What the process has while no disk is open."""

    rss: int
    descriptors: int
    threads: int
    maps: int
    """Mappings of the address space."""

    def __str__(self) -> str:
        return (
            f"RSS {self.rss / (1 << 20):.1f} MiB, {self.descriptors} descriptors, {self.threads} threads, "
            f"{self.maps} mappings"
        )


def sample() -> Sample:
    gc.collect()
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    maps = len(Path("/proc/self/maps").read_text().splitlines())
    return Sample(rss, len(os.listdir("/proc/self/fd")), threading.active_count(), maps)


class Soak:
    """The figures of a run."""

    def __init__(self, seed: int, kinds: Sequence[type[Rig]]) -> None:
        self.choose = random.Random(seed)
        self.kinds = kinds
        self.counts: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.first = self.last = sample()
        self.kept = len(base._QUARANTINE)
        """What others in this process have had to keep before."""

    def run(self, seconds: float) -> None:
        """Whole rounds over all kinds of disks, until the time is over. Raises AssertionError for a leak."""
        began, warm = time.monotonic(), False
        for number in itertools.count():
            for kind in self.kinds:
                self.use(kind)
            self.last = sample()
            passed = time.monotonic() - began
            if not warm and (passed > seconds * WARM_UP or passed > seconds):
                self.first, warm = self.last, True
            if passed > seconds and number:
                break
        self.check()

    def check(self) -> None:
        first, last = self.first, self.last
        assert last.descriptors <= first.descriptors, f"descriptors leak: {first}; {last}"
        assert last.threads <= first.threads, f"threads leak: {first}; {last}"
        assert last.rss - first.rss <= MOST_GROWTH, f"memory leaks: {first}; {last}"
        assert len(base._QUARANTINE) == self.kept, "memory was kept, though every reset was confirmed"

    def use(self, kind: type[Rig]) -> None:
        with running(kind, self.choose) as rig:
            self.counts["disks"] += 1
            load = Load(rig.disk, self.choose, self.counts, believes=rig.believes)
            load.some()
            before = allocated(rig)
            for _ in range(TURNS):
                if not self.turn(rig, load):
                    return
            load.drain()
            assert allocated(rig) == before, "memory of the device's is not given back"

    def turn(self, rig: Rig, load: Load) -> bool:
        """A few requests, maybe with a fault; False when the device is gone for good."""
        faults = rig.faults()
        name = self.choose.choice(sorted(faults)) if self.choose.random() < 0.25 else ""
        try:
            undo = self.inject(name, faults[name], load) if name else None
        except HwloopError:
            return self.recover(rig, load)
        try:
            load.some()
            fine = True
        except HwloopError as error:
            self.counts["errors"] += 1
            self.counts[type(error).__name__] += 1
            fine = False
        finally:
            if undo is not None:
                undo()
        return self.recover(rig, load) if name or not fine else True

    def inject(self, name: str, fault: Fault, load: Load) -> object:
        self.injected[name] += 1
        self.counts["faults"] += 1
        if "resize" in name:
            load.forget()
        return fault()

    def recover(self, rig: Rig, load: Load) -> bool:
        """Whether the disk works, again or still."""
        load.drain()
        try:
            rig.disk.read(0, 512)
        except HwloopError:
            try:
                rig.disk.recover()
                rig.disk.read(0, 512)
            except HwloopError:
                self.counts["lost"] += 1
                return False
            self.counts["recovered"] += 1
            load.settle()
        return True


def allocated(rig: Rig) -> int:
    """Bytes that the device can reach, by the Hal's own account."""
    hal = rig.disk.hal
    assert isinstance(hal, BounceHal)
    pieces = (piece for arenas in hal._arenas.values() for arena in arenas for piece in arena.outstanding())
    return sum(size for _, size in pieces)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    soak, began = Soak(chosen.seed, RIGS), time.monotonic()
    try:
        soak.run(chosen.seconds)
    finally:
        print(f"{time.monotonic() - began:.0f} s: {dict(soak.counts)}")
        print(f"faults injected: {dict(sorted(soak.injected.items()))}")
        print(f"after the warm-up: {soak.first}")
        print(f"at the end:        {soak.last}")
    sys.exit(0)


if __name__ == "__main__":
    main()
