"""The code blocks of a page, and the marks before them: HTML comments, which a reader of the page does not see."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
LANGUAGES = ("console", "sh", "python", "text", "json", "yaml", "ini")
"""What can be run, or read; a block in anything else needs a mark."""
UNIT, QEMU, VM, NOT_RUN, NO_CODE = "unit", "qemu", "vm", "not run", "no code"

_QEMU = re.compile(r"\bqemu\b|\bqemu-|\bsvirtb:\S+trapped=on|\bnbd(copy|info|kit|sh)\b")
_OF_THE_MACHINE = re.compile(
    r"\b[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b|\bvd[a-z]\b|\bmmio:\w|\bhwloop (?:bind|unbind|restore)\b"
)
_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->\s*", re.DOTALL)


class Unrunnable(Exception):
    """A block that cannot be run and does not say why, or a mark that is none."""


@dataclass(frozen=True)
class Block:
    """A block of a page. `line` is its first, from 1 on; `reason` why it is not run; `file` the name under which its
    text is kept for the blocks behind it; `figures_vary`: numbers of its output are not compared."""

    page: str
    line: int
    language: str
    text: str
    how: str = UNIT
    reason: str = ""
    file: str = ""
    figures_vary: bool = False

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass
class _Marks:
    how: str = ""
    reason: str = ""
    file: str = ""
    figures_vary: bool = False
    strange: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        key, _, value = text.partition(":")
        value = value.strip()
        if key == NOT_RUN and value:
            self.how, self.reason = NOT_RUN, value
        elif key == "run" and value in (QEMU, VM):
            self.how = value
        elif text == NO_CODE:
            self.how = NO_CODE
        elif key == "file" and value:
            self.file = value
        elif text == "figures vary":
            self.figures_vary = True
        else:
            self.strange.append(text)


def pages() -> list[Path]:
    """README.md and everything in docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    """`docs/nbd.md`."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, page: str) -> list[Block]:
    """The blocks of a page. Raises Unrunnable for one that can neither be run nor says why it is not."""
    found: list[Block] = []
    for token, marks in _marked(MarkdownIt("commonmark").enable("table").parse(text)):
        found.append(_block(token, marks, page, found[-1] if found else None))
    return found


def _marked(tokens: Sequence[Token]) -> Iterator[tuple[Token, _Marks]]:
    marks = _Marks()
    for token in tokens:
        if token.type in ("fence", "code_block"):
            yield token, marks
        if token.type == "html_block" and (match := _COMMENT.fullmatch(token.content)):
            marks.add(match[1])
        else:
            marks = _Marks()


def _block(token: Token, marks: _Marks, page: str, before: Block | None) -> Block:
    assert token.map is not None, "blocks have lines"
    line, language = token.map[0] + 1, token.info.strip()
    if marks.strange:
        raise Unrunnable(f"{page}:{line}: no mark of a block is called {marks.strange}; see docs/README.md")
    how = marks.how or _how(token.content, language, before)
    if language not in LANGUAGES and how not in (NOT_RUN, NO_CODE):
        what = f"a block in {language!r}" if language else "a block in no language"
        raise Unrunnable(f"{page}:{line}: {what} cannot be run: say `<!-- not run: why -->` before it")
    if (
        how in (UNIT, QEMU)
        and language in ("console", "sh", "python")
        and (found := _OF_THE_MACHINE.search(token.content))
    ):
        raise Unrunnable(f"{page}:{line}: this would touch {found[0]} of the machine that tests it: run it in a VM")
    if language == "text" and not marks.how and (before is None or before.how in (NOT_RUN, NO_CODE)):
        raise Unrunnable(f"{page}:{line}: this is the output of no block that is run: say `<!-- no code -->` before it")
    return Block(page, line, language, token.content, how, marks.reason, marks.file, marks.figures_vary)


def _how(text: str, language: str, before: Block | None) -> str:
    """Output is run where what it is the output of is."""
    if language == "text" and before is not None:
        return before.how
    return QEMU if language in ("console", "sh", "python") and _QEMU.search(text) else UNIT
