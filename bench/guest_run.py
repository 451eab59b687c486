"""In the guest: the kernel's driver, libblkio over VFIO and hwloop over VFIO in turns; `python3 -m bench.guest_run`.

Three disks that are the same but for who drives them, in one boot. Each window is announced on standard output, so that
the host can give the machine its processors for so long; what it found is a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from bench import peers
from bench.driver import TIERS, Load, measure
from bench.ours import Disk, opened

KERNEL, LIBBLKIO, OURS, PLAIN = (f"0000:00:{slot:02x}.0" for slot in (5, 6, 7, 8))
"""Where the disks are, in the order of the host's arguments; the last one is for `hwloop read`."""

DEPTHS = (1, 32, 128)
PAUSE_SECONDS = 0.3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--copies", type=int, default=3)
    given = parser.parse_args()
    if given.rounds:
        _race(given.rounds, given.seconds)
    for _ in range(given.copies):
        for name, words in _copies():
            tell({"name": name, "seconds": _in_window(partial(_timed, *words))})


def _race(rounds: int, seconds: float) -> None:
    _run("hwloop", "bind", LIBBLKIO, "--driver", "vfio-pci")
    with opened(OURS) as disk:
        for _ in range(rounds):
            for depth in DEPTHS:
                for name, window in _contestants(disk, depth, seconds):
                    tell({"depth": depth, "name": name, "iops": _in_window(window)})


def tell(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)


def _in_window(window: Callable[[], float]) -> float:
    tell({"window": "begins"})
    time.sleep(0.1)
    try:
        return window()
    finally:
        tell({"window": "ends"})
        time.sleep(PAUSE_SECONDS)


def _contestants(disk: Disk, depth: int, seconds: float) -> Iterator[tuple[str, Callable[[], float]]]:
    """The kernel's driver twice: once as fio drives it, once as libblkio does, by io_uring both."""
    yield "fio", lambda: _fio(depth, seconds)
    yield "kernel", lambda: _libblkio("io_uring", "/dev/vda", depth, seconds, "-k", "-w", "block")
    path = f"/sys/bus/pci/devices/{LIBBLKIO}"
    yield "libblkio", lambda: _libblkio("virtio-blk-vfio-pci", path, depth, seconds)
    for tier in ("core", "call") if depth == 1 else ("core", "batch", "each"):
        yield tier, lambda tier=tier: _ours(disk, tier, depth, seconds)  # type: ignore[misc]


def _ours(disk: Disk, tier: str, depth: int, seconds: float) -> float:
    found = measure(TIERS[tier], disk, Load(depth, 4096, seconds, False, "poll"), 0)
    return float(found["iops"])


def _libblkio(driver: str, path: str, depth: int, seconds: float, *options: str) -> float:
    words = [*peers.in_guest("peer_libblkio"), driver, path, "-d", str(depth), "-s", str(seconds), *options]
    return float(json.loads(_run(*words))["iops"])


def _fio(depth: int, seconds: float) -> float:
    words = ["--name=x", "--filename=/dev/vda", "--direct=1", "--ioengine=io_uring", "--rw=randread", "--bs=4k"]
    words += [f"--iodepth={depth}", f"--runtime={int(seconds * 1000)}ms", "--time_based", "--output-format=json"]
    said = _run(*peers.in_guest("fio"), *words, "--readonly", "--thread")
    return float(json.loads(said[said.index("{") :])["jobs"][0]["read"]["iops"])


def _copies() -> Iterator[tuple[str, list[str]]]:
    """To a file in memory, and to nowhere; last a read of nearly nothing, which is what a start and an end take."""
    for where, path in (("file", "/tmp/copy"), ("null", "/dev/null")):
        yield f"dd, {where}", ["dd", "if=/dev/vda", f"of={path}", "bs=1M", "count=1024", "iflag=direct"]
        yield f"hwloop read, {where}", ["hwloop", "read", PLAIN, "0", "1G", "-o", path]
    yield "hwloop read, 4 KiB", ["hwloop", "read", PLAIN, "0", "4k", "-o", "/dev/null"]


def _timed(*words: str) -> float:
    began = time.monotonic()
    _run(*words)
    seconds = time.monotonic() - began
    _run("rm", "-f", "/tmp/copy")
    return seconds


def _run(*words: str) -> str:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with status {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
