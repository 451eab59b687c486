"""A guest without KVM: hwloop over VFIO against the kernel's own driver and against libblkio, in one boot.

QEMU's disks complete at once (null-co) and run on a thread of their own. Emulation favours few instructions and
punishes exits: that is what these ratios say, and no more.
"""

from __future__ import annotations

import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench import peers
from bench.group.base import Setting, rate_text
from bench.row import Row
from hwloop import vm
from hwloop.vm.disk import Disk

GOALS_KERNEL = {1: 20.0, 32: 5.0, 128: 6.0}
GOALS_LIBBLKIO = {1: 1.0, 32: 1.25, 128: 1.4}
_PYTHON = {1: "call", 32: "batch", 128: "batch"}
_WAYS = {"core": "the core loop", "call": "Python, one `read_into` a call,", "batch": "Python, batches,"}
_TIMEOUT = 900.0


def rows(setting: Setting) -> Iterator[Row]:
    rates: dict[tuple[int, str], list[float]] = defaultdict(list)
    for line in run(setting.fifo, "--rounds", str(setting.rounds), "--copies", "0"):
        rates[line["depth"], line["name"]].append(line["iops"])
    for depth, goal in GOALS_KERNEL.items():
        kernel = [max(pair) for pair in zip(rates[depth, "fio"], rates[depth, "kernel"], strict=True)]
        for way in ("core", _PYTHON[depth]):
            what = f"{_WAYS[way]} over the kernel's io_uring and O_DIRECT, depth {depth}"
            yield _over(what, rates[depth, way], kernel, goal)
    for depth, goal in GOALS_LIBBLKIO.items():
        for way in ("core", _PYTHON[depth]):
            what = f"{_WAYS[way]} over libblkio's C loop, depth {depth}"
            yield _over(what, rates[depth, way], rates[depth, "libblkio"], goal)


def _over(measure: str, ours: list[float], theirs: list[float], goal: float) -> Row:
    middle = [sorted(each)[len(each) // 2] for each in (ours, theirs)]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Row(measure, ratios, goal, notes=f"{rate_text(middle[0])} against {rate_text(middle[1])}")


def run(fifo: bool, *words: str) -> list[dict[str, Any]]:
    """What bench.guest_run prints, given these words."""
    lines = Lines(fifo)
    size = {"file.size": str(1 << 30), "file.read-zeroes": "off", "iothread": "io0", "num-queues": "2"}
    plain = {**size, "iommu_platform": "off"}
    # The kernel's disk is not behind the IOMMU, which would cost it more than half.
    disks = [Disk("null-co://", options) for options in (plain, size, size, size, plain)]
    result = vm.run(
        ["python3", "-m", "bench.guest_run", *words],
        disks=disks,
        qemu=["-object iothread,id=io0"],
        memory="4G",
        smp=1,
        accel="tcg",
        timeout=_TIMEOUT,
        stdout=lines,
        layers=[peers.guest_layer()],
    )
    if result.returncode:
        raise RuntimeError(f"the guest's part ended with {result.returncode}: {result.stderr.decode()[-2000:]}")
    return lines.found


class Lines(io.RawIOBase):
    """Takes what the guest prints; while a window is open, QEMU has the processors (SCHED_FIFO)."""

    def __init__(self, fifo: bool) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []
        self._fifo, self._rest = fifo, b""

    def write(self, data: Any) -> int:
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        return len(data)

    def _take(self, what: dict[str, Any]) -> None:
        if "window" in what:
            _schedule_qemu(what["window"] == "begins" and self._fifo)
        else:
            self.found.append(what)
            print("    " + json.dumps(what), flush=True)


def _schedule_qemu(fifo: bool) -> None:
    """Every thread of our QEMU, if it still has them."""
    policy, priority = (os.SCHED_FIFO, 1) if fifo else (os.SCHED_OTHER, 0)
    for child in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for pid in child.read_text().split():
            if not Path(f"/proc/{pid}/comm").read_text().startswith("qemu-system"):
                continue
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setscheduler(int(task.name), policy, os.sched_param(priority))
