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
@click.argument("name", metavar="[COMMAND]", required=False)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write all pages there: hwloop.1, hwloop-read.1, and so on.",
)
def command(name: str | None, folder: Path | None) -> None:
    """Print the manual page of hwloop or of one command, for man: `hwloop man copy | man -l -`."""
    if folder is not None:
        write_pages(folder)
        return
    if name is not None and name not in COMMANDS:
        raise click.UsageError(f"No such command {name!r}.")
    click.echo(page(name))


def write_pages(folder: Path) -> None:
    """Write the page of hwloop and of each command."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (None, *COMMANDS):
        (folder / f"{'-'.join(filter(None, ('hwloop', name)))}.1").write_text(page(name) + "\n", encoding="utf-8")


def page(name: str | None) -> str:
    """The page of a command, or of hwloop for None, as roff."""
    return "\n".join(_page(name))


def _page(name: str | None) -> Iterator[str]:
    title = "-".join(filter(None, ("hwloop", name)))
    line = COMMANDS[name][2] if name else "drive virtio devices from user space"
    yield f'.TH "{title.upper()}" "1" "" "hwloop" "hwloop manual"'
    yield ".SH NAME"
    yield f"{_escape(title)} \\- {_escape(_lower(line))}"
    with click.Context(main, info_name="hwloop") as parent:
        found = main.get_command(parent, name) if name else main
        assert found is not None, "it is in COMMANDS"
        context = click.Context(found, info_name=name, parent=parent) if name else parent
        yield from _command(found, context)
    if name is None:
        yield from _commands()
    yield ".SH EXIT STATUS"
    for status, meaning in _STATUSES:
        yield from (".TP", f"\\fB{_escape(status)}\\fR", _escape(meaning))
    others = ["hwloop", *(f"hwloop-{other}" for other in COMMANDS)]
    yield ".SH SEE ALSO"
    yield ", ".join(f"\\fB{_escape(other)}\\fR(1)" for other in others if other != title)


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
            yield from (".TP", f"\\fB{_escape(name)}\\fR", _escape(inner.get_short_help_str(200) if inner else ""))
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
