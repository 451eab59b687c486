"""What the figures were measured on, and how fast it was at that moment."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from bench import quiet

# A fixed piece of work in C's speed without a compiler: one multiplication of large numbers is a loop of its own.
_PROBE = """
import time
a, b = 7 ** 20000, 3 ** 30000
began, count = time.perf_counter(), 0
while time.perf_counter() - began < 0.3:
    a * b
    count += 1
print(count / (time.perf_counter() - began))
"""


def probe(fifo: bool) -> float:
    """Multiplications a second of the driver's processor: tells a slow minute from a fast one."""
    return float(quiet.run_driver([sys.executable, "-S", "-c", _PROBE], fifo))


def describe() -> str:
    """Processor, kernel, QEMU and Python, in one line."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    processor = found[1].strip() if found else platform.machine()
    said = subprocess.run(["qemu-storage-daemon", "--version"], capture_output=True, text=True, check=False).stdout
    qemu = re.search(r"version ([\d.]+)", said)
    return (
        f"{os.cpu_count()} processors ({processor}), Linux {platform.release()}, "
        f"QEMU {qemu[1] if qemu else '?'}, Python {platform.python_version()}"
    )
