"""Instructions a request, counted by callgrind: the same on every machine with the same compiler."""

from __future__ import annotations

from collections.abc import Iterator

from bench import instructions
from bench.group.base import Setting
from bench.row import Row


def rows(_: Setting) -> Iterator[Row]:
    for kind in ("split", "packed"):
        counted = instructions.count(kind)
        goal = (126.0, 170.0) if kind == "split" else (None, None)
        what = f"instructions a 4 KiB read, {kind} ring, indirect, batches of 32"
        yield Row(f"{what}: the core (libblkio has 505)", [counted.core], goal[0], at_most=True)
        yield Row(f"{what}: through the Python call", [counted.call], goal[1], at_most=True)
