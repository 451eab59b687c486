"""docs/reference/, made from the code: `commands` from the parser of the command, `api` from signatures and docstrings,
`targets` from the tables of the doors.

Written with Python's own `ast` and `inspect`. Of the tools for it, pdoc and Sphinx write HTML that nobody sees in a
checkout, and griffe reads no Cython: signatures there are in the .pyi, and docstrings in the compiled module.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.documents.block import ROOT
from tests.documents.reference import api, commands, targets

FOLDER = ROOT / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands.page,
    "python.md": api.page,
    "targets.md": targets.page,
}


def stale(folder: Path = FOLDER) -> list[str]:
    """The pages that are not what the code says."""
    return [name for name, page in PAGES.items() if _text(folder / name) != page()]


def write(folder: Path = FOLDER) -> None:
    """Write all pages."""
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
