"""The table of doors in the README, made from what the contract suite of block devices did over each of them.

With `HWLOOP_DOORS=FILE` in the environment, every test of the suite adds a line to FILE. `python -m tests.doors check
FILE` says where the README differs from that, and `write` puts it right.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
VARIABLE = "HWLOOP_DOORS"
SUITE = "tests.contract.test_block"
BEGIN, END = "<!-- doors: made by `make tables` -->\n", "<!-- end of doors -->\n"


@dataclass(frozen=True)
class Note:
    """What one test of the suite did over one door. `reason` is why it was skipped."""

    door: str
    target: str
    test: str
    outcome: str
    reason: str = ""


def note(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add a line for a test that is over. A failure of the set-up or of the end counts as one of the test."""
    path = os.environ.get(VARIABLE)
    door = getattr(item, "funcargs", {}).get("door")
    if not path or door is None or getattr(item, "function", note).__module__ != SUITE:
        return
    if report.when == "call" or (report.when == "setup" and report.skipped) or report.failed:
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        line = Note(door.name, door.target, item.name, report.outcome, reason)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(line)) + "\n")


def read(path: Path) -> list[Note]:
    return [Note(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def table(notes: list[Note]) -> str:
    """The rows by door, in the order of their first appearance."""
    lines = ["| door | target | tests passed | left out, because the device cannot be like that |", "|---|---|---|---|"]
    for door in dict.fromkeys(note.door for note in notes):
        ours = [note for note in notes if note.door == door]
        counts = Counter(note.outcome for note in ours)
        passed = f"{counts['passed']}" if not counts["failed"] else f"{counts['passed']}, **{counts['failed']} failed**"
        lines.append(f"| {door} | {_code(ours[0].target)} | {passed} | {counts['skipped'] or ''} |")
    return "".join(f"{line}\n" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def in_readme(text: str) -> str:
    return text.partition(BEGIN)[2].partition(END)[0]


def main(arguments: list[str]) -> int:
    action, path = arguments
    made = table(sorted(read(Path(path)), key=lambda note: note.door))
    text = README.read_text(encoding="utf-8")
    if in_readme(text) == made:
        return 0
    if action == "write":
        README.write_text(text.replace(BEGIN + in_readme(text) + END, BEGIN + made + END), encoding="utf-8")
        return 0
    print(f"the table of doors in README.md is not what the tests gave (make tables writes it):\n{made}")
    return 1


def merge(path: Path, into: dict[str, Any] | os._Environ[str] = os.environ) -> None:
    """Add the notes of a run inside a guest to our own."""
    target = into.get(VARIABLE)
    if target and path.exists():
        with open(target, "a", encoding="utf-8") as file:
            file.write(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
