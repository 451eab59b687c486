"""docs/reference/commands.md: every command with its arguments, options and help, from the parser itself.

What is said of an option is put together here, and not by click, whose releases differ in it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from hwloop.cli.main import COMMANDS, main

_HEAD = """# Commands

Made from the commands themselves by `make docs`; `hwloop COMMAND --help` and `hwloop man COMMAND` say the same.
[targets.md](targets.md): what a TARGET is. [errors.md](../errors.md): exit statuses, and what each command does on bad
input.
"""

_EXAMPLES = "not run: an example of the help, whose files and devices are not here"


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_contents(), *_all()])


def _contents() -> Iterator[str]:
    for name, (_, _, line) in COMMANDS.items():
        yield f"- [`{name}`](#hwloop-{name}): {line[0].lower()}{line[1:].rstrip('.')}"
    yield ""


def _all() -> Iterator[str]:
    with click.Context(main, info_name="hwloop") as parent:
        for name in COMMANDS:
            command = main.get_command(parent, name)
            assert command is not None, "it is in COMMANDS"
            yield from _command(command, f"hwloop {name}", "##")


def _command(command: click.Command, path: str, heading: str) -> Iterator[str]:
    yield f"{heading} {path}\n"
    yield f"`{' '.join([path, *_pieces(command)])}`\n"
    yield from _paragraphs(command.help or "")
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    if options:
        yield "| option | |\n|---|---|"
        yield from map(_option, options)
        yield ""
    if command.epilog:
        yield from _paragraphs(command.epilog)
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _command(inner, f"{path} {name}", "###")


def _pieces(command: click.Command) -> Iterator[str]:
    yield "[OPTIONS]"
    for one in command.params:
        if isinstance(one, click.Argument):
            name = one.metavar or (one.name or "").upper()
            name = name if one.required or name.startswith("[") else f"[{name}]"
            yield f"{name}..." if one.nargs == -1 and not name.endswith("...") else name
    if isinstance(command, click.Group):
        yield "COMMAND ..."


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{one}`" for one in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag or option.count else f" {_value(option)}"
    marks = [f"default: {option.default}"] if option.show_default is True else []
    marks += [f"default: {option.show_default}"] if isinstance(option.show_default, str) else []
    marks += ["required"] if option.required else []
    marks += ["may be given again"] if option.multiple else []
    text = " ".join((option.help or "").split()) + (f" ({'; '.join(marks)})" if marks else "")
    return f"| {names}{value} | {_cell(text)} |"


def _value(option: click.Option) -> str:
    kind = option.type
    if option.metavar:
        return _cell(option.metavar)
    if isinstance(kind, click.Choice):
        return _cell(f"[{'|'.join(map(str, kind.choices))}]")
    if isinstance(kind, (click.IntRange, click.FloatRange)):
        least, most = ("" if end is None else f"{end:g}" for end in (kind.min, kind.max))
        return f"N, {least} to {most}" if least and most else f"N, from {least} on" if least else "N"
    return kind.name.upper()


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs; what follows a \\b is shown as it is."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.startswith("\b"):
            yield from _as_it_is(paragraph.splitlines()[1:])
        elif paragraph:
            yield " ".join(paragraph.split()).replace("<", "&lt;").replace("*", r"\*") + "\n"


def _as_it_is(lines: list[str]) -> Iterator[str]:
    """Lines that are shown as they are, perhaps with a title."""
    title = lines[0] if lines[0].endswith(":") else ""
    if title:
        yield f"{title}\n"
    shell = title == "Examples:" or lines[0].startswith("hwloop ")
    yield f"<!-- {_EXAMPLES if shell else 'no code'} -->\n```{'sh' if shell else 'text'}"
    yield inspect.cleandoc("\n" + "\n".join(lines[1:] if title else lines))
    yield "```\n"
