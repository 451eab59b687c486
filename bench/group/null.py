"""4 KiB reads at random from a device that completes at once, so that the driver is what is measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from bench import rounds
from bench.device import Device, null_device
from bench.group.base import Setting, libblkio, ours, ratio
from bench.rounds import Contest, Contestant
from bench.row import Row


def rows(setting: Setting) -> Iterator[Row]:
    with null_device(fifo=setting.fifo) as device:
        yield from _one(device, setting)
        yield from _thirty_two(device, setting)
        yield from _most(device, setting)


def _one(device: Device, setting: Setting) -> Iterator[Row]:
    contest = _hold(
        setting, libblkio(device, setting, 1), *(ours(t, device, setting, depth=1) for t in ("core", "call"))
    )
    base = "libblkio poll 1"
    yield ratio(contest, "core loop over libblkio's C loop, depth 1", "core 1", base, 1.25)
    yield ratio(contest, "Python, one `read_into` a call, over libblkio's C loop, depth 1", "call 1", base, 1.0)


def _thirty_two(device: Device, setting: Setting) -> Iterator[Row]:
    tiers = [ours(tier, device, setting, depth=32) for tier in ("core", "batch", "each")]
    contest = _hold(setting, libblkio(device, setting, 32), *tiers, _struct(device, setting, 32))
    base = "libblkio poll 32"
    yield ratio(contest, "core loop over libblkio's C loop, depth 32", "core 32", base, 3.0)
    yield ratio(contest, "Python, batches, over libblkio's C loop, depth 32", "batch 32", base, 2.0)
    yield ratio(contest, "Python, a request a call, over libblkio's C loop, depth 32", "each 32", base, 0.85)
    yield ratio(contest, "core loop over plain Python (`struct`), depth 32", "core 32", "struct 32", 40)
    yield ratio(contest, "Python, batches, over plain Python (`struct`), depth 32", "batch 32", "struct 32", 25)


def _most(device: Device, setting: Setting) -> Iterator[Row]:
    """85 requests are what libblkio has in flight at most: it uses three of 256 descriptors for each."""
    contest = _hold(setting, libblkio(device, setting, 85), ours("core", device, setting, depth=85))
    yield ratio(contest, "core loop over libblkio's C loop, depth 85", "core 85", "libblkio poll 85", 4.0)


def _struct(device: Device, setting: Setting, depth: int) -> Contestant:
    words = ("-m", "bench.struct_driver", device.socket, str(depth), str(setting.seconds), str(device.pid))
    return Contestant(f"struct {depth}", (sys.executable, *words))


def _hold(setting: Setting, *contestants: Contestant) -> Contest:
    return rounds.hold(contestants, setting.rounds, setting.fifo)
