"""`make bench`: hwloop against libblkio, qemu-storage-daemon's limit, plain Python and itself; docs/performance.md.

The contestants of a table run in turns on the same device, and a ratio is of two windows side by side.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import machine, quiet, table
from bench.group import GROUPS
from bench.group.base import Setting
from bench.row import Row, cells

RESULTS = Path(__file__).parents[1] / "build/bench.json"


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when a row is beyond half its goal."""
    given = _parse(words)
    names = given.rows.split(",") if given.rows else list(GROUPS)
    setting = Setting(given.rounds, given.seconds, quiet.fifo_is_permitted())
    if not setting.fifo:
        print("bench: SCHED_FIFO is not permitted here: expect noise, and samples that are thrown away")
    bad = 0
    for name in names:
        rows = list(_measured(name, setting))
        bad += sum(row.far_off for row in rows)
        _keep(name, rows)
        if not given.no_write:
            table.write(name, list(_section(name, rows, setting)))
    return 1 if bad else 0


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("rows", nargs="?", default="", help=f"groups, with commas between: {', '.join(GROUPS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one window")
    parser.add_argument("--no-write", action="store_true", help="leave docs/performance.md as it is")
    given = parser.parse_args(words)
    if unknown := set(filter(None, given.rows.split(","))) - set(GROUPS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are: {', '.join(GROUPS)}")
    return given


def _measured(name: str, setting: Setting) -> Iterator[Row]:
    print(f"\n{GROUPS[name].title}", flush=True)
    for row in GROUPS[name].rows(setting):
        print("  " + " | ".join(cell for cell in cells(row) if cell), flush=True)
        yield row


def _section(name: str, rows: Sequence[Row], setting: Setting) -> Iterator[str]:
    probes = [machine.probe(setting.fifo) for _ in range(3)]
    how = "each side alone on a processor (SCHED_FIFO)" if setting.fifo else "without SCHED_FIFO"
    yield ""
    yield f"### {GROUPS[name].title}"
    yield ""
    yield from table.lines(rows)
    yield ""
    yield (
        f"`make bench ROWS={name}`, {time.strftime('%Y-%m-%d')}: {setting.rounds} rounds, windows of "
        f"{setting.seconds:g} s, {how}; {machine.describe()}; processor probe {min(probes):.0f} to {max(probes):.0f}."
    )
    yield ""


def _keep(name: str, rows: Sequence[Row]) -> None:
    """All figures, for a program; not tracked."""
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[name] = [row.as_json() for row in rows]
    RESULTS.write_text(json.dumps(known, indent=1))


if __name__ == "__main__":
    sys.exit(main())
