"""Every row of the table of bad input in docs/errors.md is true."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import click
import pytest

from hwloop.cli.main import COMMANDS, main, run

ROOT = Path(__file__).parents[4]
_ROW = re.compile(r"\| `(hwloop [^`]*)` \| (\d+) \| (.*) \|")
ROWS = [match.groups() for match in _ROW.finditer((ROOT / "docs" / "errors.md").read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("line", "status", "words"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_table_is_true(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    line: str,
    status: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"x" * (1 << 20))
    assert run(shlex.split(line)[1:]) == int(status)
    said = "".join(capfd.readouterr())
    assert words in said
    assert "Traceback" not in said
    assert disk.read_bytes() == b"x" * (1 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["disk.img"], "nothing was made"


def test_every_command_is_in_the_table() -> None:
    lines = [line for line, _, _ in ROWS]
    assert {shlex.split(line)[1] for line in lines} >= set(COMMANDS)
    with click.Context(main) as context:
        groups = {name: main.get_command(context, name) for name in COMMANDS}
    inner = [f"hwloop {name} {one}" for name, group in groups.items() for one in getattr(group, "commands", ())]
    assert [path for path in inner if not any(line.startswith(path) for line in lines)] == []
