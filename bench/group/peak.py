"""The most memory that `hwloop read` has at once: the same for a small disk and a large one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

from bench.device import storage_daemon
from bench.group.base import Setting
from bench.row import Row

_GIB = 1 << 30
SIZES = (1, 64)


def rows(setting: Setting) -> Iterator[Row]:
    peaks = {}
    for gib in SIZES:
        blockdev = f"driver=null-co,size={gib * _GIB},read-zeroes=off"
        with storage_daemon(blockdev, fifo=False) as device:
            peaks[gib] = peak_of_read(device.target, gib * _GIB)
        yield Row(
            f"peak memory of `hwloop read` of {gib} GiB (null-co)",
            [peaks[gib] / (1 << 20)],
            64,
            at_most=True,
            unit=" MiB",
        )
    yield Row("the larger over the smaller", [max(peaks.values()) / min(peaks.values())], 1.02, at_most=True)


def peak_of_read(target: str, size: int) -> int:
    """Bytes of resident memory at most."""
    command = [sys.executable, "-m", "hwloop", "read", target, "0", str(size)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return usage.ru_maxrss * 1024
