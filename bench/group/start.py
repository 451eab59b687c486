"""How long a user waits before anything happens."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import quiet
from bench.first_block import from_exec, whole_command
from bench.group.base import Setting
from bench.row import Row

_HELP = ("-m", "hwloop", "--help")
_IMPORT = "import time; began = time.perf_counter(); import hwloop; print(time.perf_counter() - began)"


def rows(setting: Setting) -> Iterator[Row]:
    times = [_times(setting.fifo) for _ in range(2 * setting.rounds)]
    helps, imports, bare = (list(column) for column in zip(*times, strict=True))
    beside = f"a Python that does nothing: {sorted(bare)[len(bare) // 2]:.3f} s"
    yield Row("`hwloop --help`, start of Python included", helps, 0.12, at_most=True, unit=" s", notes=beside)
    yield Row("`import hwloop`", [1000 * value for value in imports], 60, at_most=True, unit=" ms")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "disk.img"
        image.touch()
        with open(image, "r+b") as file:
            file.truncate(16 << 20)
        blocks = [(whole_command(f"qemu:{image}"), from_exec(f"qemu:{image}")) for _ in range(setting.rounds)]
    command, first = (list(column) for column in zip(*blocks, strict=True))
    yield Row("`hwloop read qemu:disk.img 0 512`, from start to end", command, unit=" s")
    yield Row("from the start of QEMU to the first block", first, unit=" s")


def _times(fifo: bool) -> tuple[float, float, float]:
    """Of the help, of the import, and of a Python that does nothing."""
    nothing = quiet.timed([sys.executable, "-c", ""], fifo)
    return quiet.timed([sys.executable, *_HELP], fifo), _import_time(fifo), nothing


def _import_time(fifo: bool) -> float:
    return float(quiet.run_driver([sys.executable, "-c", _IMPORT], fifo))
