"""`python -m bench.instructions`: instructions that the driver's side takes for a request, counted by callgrind.

A count is the same on every machine with the same compiler, however busy it is, and so can be held to a limit where a
rate cannot. Batches of 32 reads of 4 KiB are submitted and reaped; the device's side and the loop are not counted.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

BATCH, BATCHES = 32, 200
TOOLS = ("valgrind", "callgrind_annotate")

# What is counted: the loops themselves, and the calls from Python with them.
_CORE = (r"__pyx_f_\w+Engine_submit_from", r"__pyx_f_\w+Engine_reap_into")
_CALLS = {
    "engine": (r"__pyx_pw_\w+Engine_\d+submit", r"__pyx_pw_\w+Engine_\d+reap"),
    "batch": (r"__pyx_pw_\w+BlkQueue_\d+submit", r"__pyx_pw_\w+BlkQueue_\d+reap"),
    "each": (r"__pyx_pw_\w+BlkQueue_\d+submit_read", r"__pyx_pw_\w+BlkQueue_\d+poll"),
    "empty": (r"__pyx_pw_\w+BlkQueue_\d+poll",),
}
_LINE = re.compile(r"^\s*([\d,]+) .*?[\s:](__pyx_\w+)(?: |$)")


LEVELS = {"engine": "engine", "batch": "disk, a batch a call", "each": "disk, a call each", "empty": "disk, empty poll"}


class Count(NamedTuple):
    """Instructions a request: of the loops in C, and of the calls from Python around them."""

    core: float
    call: float


def available() -> bool:
    """Whether this machine can count."""
    return all(shutil.which(tool) for tool in TOOLS)


def count(kind: str, level: str = "engine") -> Count:
    """Count a kind and a level of `bench.engine_run`. Raises RuntimeError when callgrind shows no such function."""
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/callgrind.out"
        run = [sys.executable, "-m", "bench.engine_run", kind, str(BATCHES), level]
        _run("valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", *run)
        text = _run("callgrind_annotate", "--inclusive=yes", "--threshold=100", output)
    costs = _costs(text)
    core = _CORE[1:] if level == "empty" else _CORE
    return Count(*(sum(_cost(costs, pattern) for pattern in patterns) for patterns in (core, _CALLS[level])))


def _run(*command: str) -> str:
    root = Path(__file__).parents[1]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=300).stdout


def _costs(text: str) -> dict[str, int]:
    """By function, all with what they call; the largest where a function has several lines."""
    costs: dict[str, int] = {}
    for line in text.splitlines():
        if found := _LINE.match(re.sub(r"\(\s*[\d.]+%\)", "", line)):
            costs[found[2]] = max(costs.get(found[2], 0), int(found[1].replace(",", "")))
    return costs


def _cost(costs: dict[str, int], pattern: str) -> float:
    found = [cost for name, cost in costs.items() if re.fullmatch(pattern, name)]
    if len(found) != 1:
        raise RuntimeError(f"callgrind shows {len(found)} functions like {pattern}; was it inlined or renamed?")
    return found[0] / (BATCH * BATCHES)


def main() -> None:
    from bench.engine_run import KINDS

    if not available():
        sys.exit(f"bench.instructions: needs {' and '.join(TOOLS)}: apt-get install valgrind")
    print(f"instructions a 4 KiB read, submitted and reaped in batches of {BATCH}")
    print(f"{'':34}{'core':>8}{'from Python':>14}")
    for level, what in LEVELS.items():
        for kind in KINDS if level == "engine" else ("split", "packed"):
            counted = count(kind, level)
            print(f"{f'{what}, {kind}':34}{counted.core:8.1f}{counted.call:14.1f}", flush=True)


if __name__ == "__main__":
    main()
