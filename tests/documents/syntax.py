"""Checks the words of commands that cannot be run: there is such a command of hwloop, and it has these options."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator

import click

from hwloop.cli.main import main
from tests.documents.block import Block

_PROGRAMS = ("hwloop", ".venv/bin/hwloop")


def mistakes(block: Block) -> Iterator[str]:
    """What is wrong with the command lines of hwloop in a block."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for words in _commands(line.removeprefix("$ ").removeprefix("# ")):
            if found := _mistake(words):
                yield f"{block}: {' '.join(words)}: {found}"


def _commands(line: str) -> Iterator[list[str]]:
    """The words of each command of hwloop in a line of a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in itertools.chain(lexer, ";"):
            if not set(word) <= set(";&|()<>"):
                words.append(word)
                continue
            at = next((n for n, one in enumerate(words) if one in _PROGRAMS), len(words))
            if words[:at] in ([], ["sudo"]) and words[at:]:
                yield words[at + 1 :]
            words = []
    except ValueError:
        return  # a line of a longer string


def _mistake(words: list[str]) -> str:
    try:
        _parse(main, "hwloop", words)
    except click.ClickException as error:
        return error.format_message()
    return ""


def _parse(command: click.Command, name: str, words: list[str]) -> None:
    """Raises click.UsageError. Values are not looked at: files need not exist, and nothing is opened."""
    context = click.Context(command, info_name=name)
    context.allow_interspersed_args = command.allow_interspersed_args
    _, rest, _ = command.make_parser(context).parse_args(words)
    if isinstance(command, click.Group) and rest:
        inner = command.get_command(context, rest[0])
        if inner is None:
            raise click.UsageError(f"there is no command {rest[0]!r}")
        _parse(inner, rest[0], rest[1:])
