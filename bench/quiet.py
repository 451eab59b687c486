"""A processor for either side, and nobody else on it for a moment.

The device runs on one processor and the driver on another, both under SCHED_FIFO where that is permitted: on a shared
machine nothing else keeps a polling loop on its processor. The windows are short, and there is a pause after each, in
which everybody else gets theirs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

DEVICE_CPU, DRIVER_CPU = 0, 1
PAUSE_SECONDS = 0.4

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def fifo_is_permitted() -> bool:
    """Whether this process may have a processor to itself, tried in a child."""
    command = ["chrt", "--fifo", "1", "true"]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def settle_on(cpu: int, fifo: bool) -> Callable[[], None]:
    """What a child does before it becomes a program: asks to die with us, and takes its processor and its class."""

    def settle() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[cpu % len(processors)]})
        if fifo:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

    return settle


def run_driver(command: Sequence[str], fifo: bool, seconds: float = 60.0) -> str:
    """What a driver's process prints; followed by the pause. Raises CalledProcessError with what it said."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            preexec_fn=settle_on(DRIVER_CPU, fifo),
            check=False,
        )
    finally:
        time.sleep(PAUSE_SECONDS)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}: {said[-2000:]}")
    return done.stdout


def timed(command: Sequence[str], fifo: bool) -> float:
    """Seconds that a program runs, on the driver's processor."""
    began = time.monotonic()
    settle = settle_on(DRIVER_CPU, fifo)
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=settle, check=True)
    return time.monotonic() - began


def start_device(command: Sequence[str], fifo: bool) -> subprocess.Popen[str]:
    """A device's process on its processor; `end` ends it."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=settle_on(DEVICE_CPU, fifo),
    )


def end(process: subprocess.Popen[str]) -> str:
    """Ask it to end, then make it; returns what it printed."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]
