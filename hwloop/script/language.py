"""A line of the language taken apart: pure, and nothing of a disk.

The commands and their letters are qemu-io's, so that its scripts run here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from hwloop.errors import InvalidParam
from hwloop.size import parse_size

COMMENT = "#"


@dataclass(frozen=True)
class Form:
    """What a command takes: letters that are switches, letters that have a value, and how many arguments."""

    usage: str
    switches: str = ""
    values: str = ""
    arguments: range = range(1)


_READ = Form("[-qv] [-P PATTERN] [-s START] [-l LENGTH] OFFSET LENGTH", "qvC", "Psl", range(2, 3))
_WRITE = Form("[-fquzn] [-P PATTERN] OFFSET LENGTH", "fquznC", "P", range(2, 3))
FORMS: Mapping[str, Form] = {
    "read": _READ,
    "write": _WRITE,
    "aio_read": _READ,
    "aio_write": _WRITE,
    "aio_flush": Form(""),
    "flush": Form(""),
    "discard": Form("[-q] OFFSET LENGTH", "qC", "", range(2, 3)),
    "length": Form(""),
    "info": Form(""),
    "sleep": Form("MILLISECONDS", "", "", range(1, 2)),
    "help": Form("[COMMAND]", "", "", range(2)),
    "quit": Form(""),
}
_SHORT = {"r": "read", "w": "write", "f": "flush", "d": "discard", "i": "info", "l": "length", "q": "quit"}


@dataclass(frozen=True)
class Command:
    """One command: its letters without dashes in `options`, the values of those that have one."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    def has(self, letter: str) -> bool:
        return letter in self.options

    def size(self, index: int) -> int:
        """An argument as a number of bytes. Raises InvalidParam."""
        return parse_size(self.arguments[index])

    def pattern(self, default: int = 0xCD) -> int:
        """The byte of -P. Raises InvalidParam."""
        return _byte(self.options["P"]) if "P" in self.options else default


def parse(line: str) -> Command | None:
    """The command of a line; None for an empty line or a comment. Raises InvalidParam, with the usage."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise InvalidParam(f"{line.strip()!r} cannot be read: {str(error).lower()}") from None
    if not words:
        return None
    name = _SHORT.get(words[0], words[0])
    form = FORMS.get(name)
    if form is None:
        raise InvalidParam(f"there is no command {words[0]!r}", remedy=f"there is: {', '.join(FORMS)}")
    command = _take_apart(name, form, words[1:])
    if len(command.arguments) not in form.arguments:
        raise _wrong(name, form, f"{name} has {len(command.arguments)} arguments")
    return command


def _take_apart(name: str, form: Form, words: list[str]) -> Command:
    options: dict[str, str] = {}
    rest = list(words)
    while rest and len(rest[0]) > 1 and rest[0][0] == "-" and not rest[0][1].isdigit():
        letters = rest.pop(0)[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in form.values:
                if not letters and not rest:
                    raise _wrong(name, form, f"-{letter} of {name} has no value")
                options[letter], letters = letters or rest.pop(0), ""
            elif letter in form.switches:
                options[letter] = ""
            else:
                raise _wrong(name, form, f"{name} has no option -{letter}")
    return Command(name, options, tuple(rest))


def _wrong(name: str, form: Form, problem: str) -> InvalidParam:
    return InvalidParam(problem, remedy=f"usage: {name} {form.usage}".rstrip())


def _byte(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value <= 0xFF:
        raise InvalidParam(f"{text!r} is no pattern", remedy="give one byte: 0 to 255, or 0xaa")
    return value
