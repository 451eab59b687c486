"""Which fault of docs/faults.md is shown over which back end, made from the results of the tests.

A test that shows what happens at a fault has the marker `fault(number, ...)`; `over=` names the back end where the door
or the folder does not. With `HWLOOP_FAULTS=FILE` in the environment each of them adds a line to FILE. `python -m
tests.faults check FILE` says where the matrix in docs/faults.md differs from that, and `write` puts it right.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "faults.md"
VARIABLE = "HWLOOP_FAULTS"
LAST = 62
MOST_REASONS = 5
"""How many faults may have a reason in place of a test."""
BEGIN, END = "<!-- matrix: made by `make tables` -->\n", "<!-- end of matrix -->\n"

BACK_ENDS = ("fake", "qtest", "vfio", "uio", "devmem", "vhost-user", "svirtb", "machine")
"""The columns. `fake` is everything in process; `machine` what is about the computer and no device."""

_DOORS = (
    ("qtest", "qtest"),
    ("vhost", "vhost-user"),
    ("svirtb", "svirtb"),
    ("vfio", "vfio"),
    ("uio", "uio"),
    ("devmem", "devmem"),
)
_PLACES = (
    ("tests/guest/test_uio", "uio"),
    ("tests/guest/test_mmio", "devmem"),
    ("tests/guest/", "vfio"),
    ("tests/qemu/test_svirtb", "svirtb"),
    ("tests/qemu/", "qtest"),
    ("tests/unit/hwloop/vhost/", "vhost-user"),
    ("tests/unit/udev/", "machine"),
    ("tests/", "fake"),
)
_ROW = re.compile(r"^\| (\d+) \| (.*?) \| (.*?) \|(?: (.*?) \|)?$", re.MULTILINE)


@dataclass(frozen=True)
class Note:
    """What a test of a fault did over a back end."""

    fault: int
    over: str
    test: str
    outcome: str


@dataclass(frozen=True)
class Row:
    """One fault of the page; `reason` is why no test shows it."""

    number: int
    what: str
    happens: str
    reason: str


def note(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add the lines of a test that is over."""
    path = os.environ.get(VARIABLE)
    markers = list(item.iter_markers("fault"))
    if not path or not markers or not (report.when == "call" or report.failed):
        return
    with open(path, "a", encoding="utf-8") as file:
        for marker in markers:
            over = str(marker.kwargs.get("over") or back_end_of(item))
            assert over in BACK_ENDS, over
            for number in marker.args:
                file.write(json.dumps(asdict(Note(number, over, item.nodeid, report.outcome))) + "\n")


def back_end_of(item: pytest.Item) -> str:
    """By the door that the test has, else by its folder."""
    door = getattr(getattr(item, "funcargs", {}).get("door"), "name", "")
    for prefix, over in _DOORS:
        if door.startswith(prefix):
            return over
    return "fake" if door else next(over for prefix, over in _PLACES if item.nodeid.startswith(prefix))


def read_rows(text: str | None = None) -> list[Row]:
    page = PAGE.read_text(encoding="utf-8") if text is None else text
    table = page.partition(BEGIN)[0]
    return [Row(int(found[1]), found[2], found[3], found[4] or "") for found in _ROW.finditer(table)]


def marked() -> dict[int, list[str]]:
    """The tests that have the marker, by number, as `file::name`; read from their sources."""
    found: dict[int, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for number, name in _marked_in(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(number, []).append(f"{path.relative_to(ROOT)}::{name}")
    return found


def _marked_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                yield from ((int(ast.literal_eval(argument)), function.name) for argument in decorator.args)


def read(path: Path) -> list[Note]:
    return [Note(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def matrix(notes: list[Note], rows: list[Row]) -> str:
    """A line a fault, a column a back end: how many tests have passed there."""
    lines = [f"| | {' | '.join(BACK_ENDS)} |", f"|---|{'---|' * len(BACK_ENDS)}"]
    for row in rows:
        cells = (_cell([note for note in notes if (note.fault, note.over) == (row.number, over)]) for over in BACK_ENDS)
        lines.append(f"| {row.number} | {' | '.join(cells)} |")
    return "".join(f"{line}\n" for line in lines)


def _cell(notes: list[Note]) -> str:
    if any(note.outcome == "failed" for note in notes):
        return "**failed**"
    return "yes" if any(note.outcome == "passed" for note in notes) else ""


def merge(path: Path) -> None:
    """Add the notes of a run inside a guest to our own."""
    target = os.environ.get(VARIABLE)
    if target and path.exists():
        with open(target, "a", encoding="utf-8") as file:
            file.write(path.read_text(encoding="utf-8"))


def main(arguments: list[str]) -> int:
    action, path = arguments
    text = PAGE.read_text(encoding="utf-8")
    made = matrix(read(Path(path)), read_rows(text))
    before = text.partition(BEGIN)[2].partition(END)[0]
    if before == made:
        return 0
    if action == "write":
        PAGE.write_text(text.replace(BEGIN + before + END, BEGIN + made + END), encoding="utf-8")
        return 0
    print(f"the matrix in docs/faults.md is not what the tests gave (make tables writes it):\n{made}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
