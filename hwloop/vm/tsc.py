"""How fast this machine's time stamp counter runs. An emulated x86 guest reads the same counter.

Measured, because nothing that an ordinary user may read says it: `cpu MHz` in /proc/cpuinfo is the present clock of a
core, and the kernel's own number is in a log that only root may see.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

from hwloop.vm.errors import BadOption

SECONDS = 0.02
"""How long is measured. The clock is read a microsecond early or late: 50 parts in a million."""

_TRIES = 8

# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")
_CPUINFO = Path("/proc/cpuinfo")


def frequency_khz() -> int:
    """Thousands of ticks a second. Raises BadOption on a machine that is no x86."""
    if platform.machine() != "x86_64":
        raise BadOption(
            f"this machine is {platform.machine()} and has no time stamp counter for the guest to be told of",
            remedy="use --machine microvm-noacpi, which measures its own",
        )
    try:
        return _measured()
    except OSError:  # memory that can be executed is forbidden here (SELinux)
        return _as_the_kernel_says()


def _measured() -> int:
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(_READ_COUNTER)
        place = ctypes.c_char.from_buffer(code)
        counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
        khz = _rate(counter, time.monotonic_ns)
        del place, counter  # or the mapping cannot be closed
    return khz


def _rate(counter: Callable[[], int], clock: Callable[[], int]) -> int:
    """Ticks of `counter` in a millisecond of `clock`, which counts nanoseconds."""
    began, first = _moment(counter, clock)
    time.sleep(SECONDS)
    ended, last = _moment(counter, clock)
    return round((last - first) * 1_000_000 / (ended - began))


def _moment(counter: Callable[[], int], clock: Callable[[], int]) -> tuple[int, int]:
    """Clock and counter at one moment: of several tries the shortest, in which nobody took the processor away."""
    tries = [(clock(), counter(), clock()) for _ in range(_TRIES)]
    before, ticks, after = min(tries, key=lambda one: one[2] - one[0])
    return (before + after) // 2, ticks


def _as_the_kernel_says() -> int:
    """The clock of the first core: close enough for a guest to start, though its seconds may be off by some percent."""
    found = re.search(r"^cpu MHz\s*: ([\d.]+)", _CPUINFO.read_text(), re.MULTILINE)
    if found is None:
        raise BadOption("the speed of the time stamp counter is not known", remedy="use --machine microvm-noacpi")
    return round(float(found[1]) * 1000)
