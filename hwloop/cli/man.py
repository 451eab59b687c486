"""`hwloop man`: manual pages, made from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from hwloop.cli.main import COMMANDS, main

_STATUSES = (
    ("0", "Done."),
    ("1", "What was read is not what it should be: compare, verify, copy --verify, features of two that differ."),
    ("2", "Wrong arguments; nothing was sent to a device."),
    ("3", "Refused, because something uses the device, or data would be lost; nothing was changed."),
    ("4", "The device reported an error, or broke the specification."),
    ("5", "The device is gone or did not answer in time."),
    ("6", "The machine lacks something."),
    ("129, 130, 143", "Ended by SIGHUP, SIGINT, SIGTERM; the device was given back."),
    ("141", "Whoever read the output has gone."),
)


@click.command("man")
@click.argument("words", metavar="[COMMAND]...", nargs=-1)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write all pages there: hwloop.1, hwloop-read.1, hwloop-serve-nbd.1, and so on.",
)
def command(words: tuple[str, ...], folder: Path | None) -> None:
    """Print the manual page of hwloop or of one command, for man: `hwloop man copy | man -l -`."""
    if folder is not None:
        write_pages(folder)
        return
    if words and words not in all_commands():
        raise click.UsageError(f"No such command {' '.join(words)!r}.")
    click.echo(page(*words))


def write_pages(folder: Path) -> None:
    """Write the page of hwloop and of each command."""
    folder.mkdir(parents=True, exist_ok=True)
    for words in ((), *all_commands()):
        (folder / f"{'-'.join(('hwloop', *words))}.1").write_text(page(*words) + "\n", encoding="utf-8")


def all_commands() -> list[tuple[str, ...]]:
    """The words of each command, those inside a group too: `("serve", "nbd")`."""
    found: list[tuple[str, ...]] = []
    for name in COMMANDS:
        command, context = _find((name,))
        inner = command.list_commands(context) if isinstance(command, click.Group) else []
        found += [(name,), *((name, other) for other in inner)]
    return found


def page(*words: str) -> str:
    """The page of a command, or of hwloop for no words, as roff."""
    return "\n".join(_page(words))


def _page(words: tuple[str, ...]) -> Iterator[str]:
    title = "-".join(("hwloop", *words))
    found, context = _find(words)
    yield f'.TH "{title.upper()}" "1" "" "hwloop" "hwloop manual"'
    yield ".SH NAME"
    yield f"{_escape(title)} \\- {_escape(_lower(_line(words, found)))}"
    yield from _command(found, context)
    if not words:
        yield from _commands()
    yield ".SH EXIT STATUS"
    for status, meaning in _STATUSES:
        yield from (".TP", f"\\fB{_escape(status)}\\fR", _escape(meaning))
    others = ["hwloop", *(f"hwloop-{other}" for other in COMMANDS)]
    yield ".SH SEE ALSO"
    yield ", ".join(f"\\fB{_escape(other)}\\fR(1)" for other in others if other != title)


def _find(words: tuple[str, ...]) -> tuple[click.Command, click.Context]:
    found: click.Command = main
    context = click.Context(main, info_name="hwloop")
    for word in words:
        inner = found.get_command(context, word) if isinstance(found, click.Group) else None
        assert inner is not None, "its name comes from there"
        found, context = inner, click.Context(inner, info_name=word, parent=context)
    return found, context


def _line(words: tuple[str, ...], found: click.Command) -> str:
    if len(words) > 1:
        return found.get_short_help_str(200)
    return COMMANDS[words[0]][2] if words else "drive virtio devices from user space"


def _command(found: click.Command, context: click.Context) -> Iterator[str]:
    yield ".SH SYNOPSIS"
    yield f"\\fB{_escape(context.command_path)}\\fR {_escape(' '.join(found.collect_usage_pieces(context)))}"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(found.help or "")
    named = [parameter for parameter in found.get_params(context) if isinstance(parameter, click.Option)]
    options = [record for option in named if (record := option.get_help_record(context))]
    yield ".SH OPTIONS"
    for names, text in options:
        yield from (".TP", f"\\fB{_escape(names)}\\fR", _escape(text))
    if isinstance(found, click.Group) and found is not main:
        yield ".SH COMMANDS"
        for name in found.list_commands(context):
            inner = found.get_command(context, name)
            own = f"{context.command_path} {name}".replace(" ", "-")
            yield from (".TP", f"\\fB{_escape(own)}\\fR(1)", _escape(inner.get_short_help_str(200) if inner else ""))
    if found.epilog:
        yield ".SH NOTES"
        yield from _paragraphs(found.epilog)


def _commands() -> Iterator[str]:
    yield ".SH COMMANDS"
    for name, (_, _, line) in COMMANDS.items():
        yield from (".TP", f"\\fBhwloop\\-{_escape(name)}\\fR(1)", _escape(line))


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs; what follows a \\b is shown as it is."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.startswith("\b"):
            yield ".nf"
            yield from (_escape(line) for line in paragraph.splitlines()[1:])
            yield ".fi"
        else:
            yield _escape(" ".join(paragraph.split()))
        yield ".PP"


def _escape(text: str) -> str:
    """What roff would take for a command of its own."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def _lower(line: str) -> str:
    return line[0].lower() + line[1:].rstrip(".")
