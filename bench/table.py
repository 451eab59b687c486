"""The tables in docs/performance.md, each between two marks of its own: the rest of the page is a person's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.row import HEADER, Row, cells

PAGE = Path(__file__).parents[1] / "docs/performance.md"


def lines(rows: Sequence[Row]) -> list[str]:
    """A table in Markdown."""
    body = [cells(row) for row in rows]
    rule = tuple("---" for _ in HEADER)
    return ["| " + " | ".join(row) + " |" for row in (HEADER, rule, *body)]


def replace(text: str, group: str, body: Sequence[str]) -> str:
    """The page with another table for a group. Raises ValueError when the page has no place for it."""
    begin, end = f"<!-- bench: {group} -->", f"<!-- end: {group} -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{PAGE} has no marks {begin} and {end}")
    return "\n".join([head + begin, *body, end]) + tail


def write(group: str, body: Sequence[str]) -> None:
    PAGE.write_text(replace(PAGE.read_text(), group, body))
