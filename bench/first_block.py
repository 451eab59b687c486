"""`python -m bench.first_block`: how long the first block of a `qemu:` target takes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 9

# In a process of its own, as a user has it; prints the seconds from the start of QEMU to the first block.
FROM_EXEC = """
import sys, time
from hwloop.qtest import process
popen, times = process.subprocess.Popen, []
def timed(*arguments, **options):
    times.append(time.monotonic())
    return popen(*arguments, **options)
process.subprocess.Popen = timed
import hwloop
with hwloop.open(sys.argv[1]) as disk:
    assert len(disk.read(0, 512)) == 512
    print(time.monotonic() - times[0])
"""


def whole_command(target: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "hwloop", "read", target, "0", "512"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def from_exec(target: str) -> float:
    command = [sys.executable, "-c", FROM_EXEC, target]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def bare_python() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return time.monotonic() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        with open(image, "wb") as file:
            file.truncate(16 << 20)
        rounds = [(whole_command(f"qemu:{image}"), from_exec(f"qemu:{image}"), bare_python()) for _ in range(ROUNDS)]
    command, block, python = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"hwloop read qemu:disk.img 0 512, medians of {ROUNDS} interleaved rounds")
    print(f"  the command from start to end   {command:.3f} s, {command / python:.1f} times a Python that does nothing")
    print(f"  QEMU's start to the first block {block:.3f} s")


if __name__ == "__main__":
    main()
