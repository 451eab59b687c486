"""The table of doors in the README, and what makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import doors
from tests.doors import Note

NOTES = [Note("b", "b:x", "one", "passed"), Note("a", "", "one", "passed"), Note("a", "", "two", "skipped", "because")]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    import json

    readme, notes = tmp_path / "README.md", tmp_path / "notes"
    readme.write_text(f"before\n{doors.BEGIN}{doors.END}after\n")
    notes.write_text("".join(json.dumps(vars(note)) + "\n" for note in NOTES))
    monkeypatch.setattr(doors, "README", readme)
    return readme, notes


def test_the_table_is_written_between_its_marks_and_then_it_is_right(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    readme, notes = files
    assert doors.main(["check", str(notes)]) == 1
    assert "| a |  | 1 | 1 |" in capsys.readouterr().out
    assert doors.main(["write", str(notes)]) == 0
    assert doors.main(["check", str(notes)]) == 0
    assert readme.read_text().startswith("before\n")
    assert readme.read_text().endswith("| b | `b:x` | 1 |  |\n<!-- end of doors -->\nafter\n")
    assert doors.main(["write", str(notes)]) == 0, "a second time changes nothing"


def test_a_failure_shows() -> None:
    assert "**1 failed**" in doors.table([*NOTES, Note("a", "", "three", "failed")])


def test_the_readme_has_its_marks() -> None:
    text = doors.README.read_text(encoding="utf-8")
    assert text.count(doors.BEGIN) == text.count(doors.END) == 1
    assert doors.in_readme(text).startswith("| door |")
