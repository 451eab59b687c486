"""4 KiB reads at random from qemu-storage-daemon, which is the limit itself: parity is what there is to reach.

libblkio waits in the best of its ways: to poll where both sides may, and where they may not, the better of blocking in
libblkio and sleeping on its completion file descriptor.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench import rounds
from bench.device import Device, memory_file, storage_daemon
from bench.group.base import Setting, libblkio, ours, ratio
from bench.row import Row

DEPTHS = (1, 32, 128)
_NULL = "driver=null-co,size=1073741824,read-zeroes=off"
_FILE_BYTES = 1 << 29

_OURS = ("poll", "block", "irq")
"""The last two are ways to sleep: naps, and the back end's call."""


def rows(setting: Setting) -> Iterator[Row]:
    with storage_daemon(_NULL, fifo=setting.fifo) as device:
        yield from _of(device, setting, "null-co")
    with memory_file(_FILE_BYTES) as file, storage_daemon(f"driver=file,filename={file}", fifo=setting.fifo) as device:
        yield from _of(device, setting, "a file in memory")


def _of(device: Device, setting: Setting, what: str) -> Iterator[Row]:
    for depth in DEPTHS:
        contestants = [
            *(libblkio(device, setting, depth, wait=wait, device_polls=False) for wait in ("poll", "block", "eventfd")),
            *(ours("core", device, setting, device_polls=False, depth=depth, wait=wait) for wait in _OURS),
        ]
        named = [*contestants[:3], *_renamed(contestants[3:])]
        contest = rounds.hold(named, setting.rounds, setting.fifo)
        best = max(("block", "eventfd"), key=lambda wait: contest.rate(f"libblkio {wait} {depth}"))
        own = max(("block", "irq"), key=lambda wait: contest.rate(f"core {wait}"))
        for wait, theirs in (("poll", "poll"), (own, best)):
            way = "polling" if wait == "poll" else f"sleeping ({wait}; libblkio: {theirs})"
            measure = f"{what}, core loop over libblkio's, {way}, depth {depth}"
            yield ratio(contest, measure, f"core {wait}", f"libblkio {theirs} {depth}", 0.95)


def _renamed(pair: list[rounds.Contestant]) -> Iterator[rounds.Contestant]:
    for contestant, wait in zip(pair, _OURS, strict=True):
        yield rounds.Contestant(f"core {wait}", contestant.command, contestant.driver_polls, contestant.device_polls)
