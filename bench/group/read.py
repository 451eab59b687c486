"""`hwloop read` of a whole disk in a guest without KVM, against dd and the kernel's driver on a disk like it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from bench.group import guest
from bench.group.base import Setting
from bench.row import Row

COPIES = 3


def rows(setting: Setting) -> Iterator[Row]:
    seconds: dict[str, list[float]] = defaultdict(list)
    for line in guest.run(setting.fifo, "--rounds", "0", "--copies", str(COPIES)):
        seconds[line["name"]].append(line["seconds"])
    start = seconds["hwloop read, 4 KiB"]
    yield _over("`hwloop read` of 1 GiB to a file, time over `dd iflag=direct bs=1M`", seconds, "file", 1.0)
    ours, theirs = seconds["hwloop read, file"], seconds["dd, file"]
    data = [(whole - of_start) / other for whole, of_start, other in zip(ours, start, theirs, strict=True)]
    yield Row("the same without what a read of 4 KiB takes, which is the start and the end", data, at_most=True)
    yield _over("the same to /dev/null", seconds, "null", None)
    yield Row("`hwloop read` of 4 KiB, the device taken from its driver and given back", start, at_most=True, unit=" s")


def _over(measure: str, seconds: dict[str, list[float]], where: str, goal: float | None) -> Row:
    ours, theirs = seconds[f"hwloop read, {where}"], seconds[f"dd, {where}"]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Row(measure, ratios, goal, at_most=True, notes=f"{_list(ours)} s against {_list(theirs)} s")


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
