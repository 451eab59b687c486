"""Holds what was printed against what a page says that is printed."""

from __future__ import annotations

import difflib
import re

_FIGURE = re.compile(r"0x[0-9a-f]+|\d+(?:[.,]\d+)*")
_LEFT_OUT = re.compile(r"\s*(?:\.\.\.|\[\.\.\..*\])\s*")


def difference(said: str, printed: str, *, figures_vary: bool = False) -> str:
    """ "" where it is the same, else how it differs.

    A line `...` or `[... 3 more]` of the page stands for any number of lines, and `...` in a line for anything. Blanks
    at the ends of lines do not count. With `figures_vary` one number is as good as another, and so are the blanks
    around it.
    """
    expected, got = (_lines(text, figures_vary) for text in (said, printed))
    if re.fullmatch("".join(map(_pattern, expected)), "".join(f"{line}\n" for line in got)):
        return ""
    return "\n".join(difflib.unified_diff(expected, got, "the page", "what was printed", lineterm=""))


def _lines(text: str, figures_vary: bool) -> list[str]:
    lines = [line.rstrip() for line in text.strip("\n").split("\n")]
    if lines == [""]:
        return []
    return [" ".join(_FIGURE.sub("0", line).split()) for line in lines] if figures_vary else lines


def _pattern(line: str) -> str:
    if _LEFT_OUT.fullmatch(line):
        return r"(?:[^\n]*\n)*?"
    return r"[^\n]*?".join(map(re.escape, line.split("..."))) + r"\n"
