"""`hwloop exec`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from hwloop.cli.common import destroy_option, json_option, open_disk, print_json, target_argument
from hwloop.errors import DriverError

if TYPE_CHECKING:
    from hwloop.script.language import Command
    from hwloop.script.run import Event, Script


@click.command(
    "exec",
    epilog="""\b
Commands, as in qemu-io; sizes take k, M, G:
  read [-qv] [-P PATTERN] [-s START] [-l LENGTH] OFFSET LENGTH   with -P: check that the bytes are there
  write [-fquz] [-P PATTERN] OFFSET LENGTH                       -z zeros without sending them, -u may unmap, -f flushes
  aio_read, aio_write, aio_flush                                 the same, started at once; aio_flush waits for them
  flush, discard OFFSET LENGTH, length, info, sleep MS, help, quit

\b
Examples:
  hwloop exec qemu:disk.img -c 'write -P 0xaa 0 4k' -c flush -c 'read -P 0xaa 0 4k'
  hwloop exec fake:16M < script
""",
)
@target_argument
@click.option("-c", "commands", metavar="COMMAND", multiple=True, help="A command; may be given again.")
@destroy_option
@json_option
def command(target: str, commands: tuple[str, ...], destroy: bool, as_json: bool) -> None:
    """Run commands of qemu-io's language on a disk: those of -c, or else the lines of standard input.

    The first error ends it. A pattern that is not there is exit status 1.
    """
    from hwloop.device.signature import refuse_data
    from hwloop.script.run import Script

    parsed = [(line, _parse(line)) for line in commands]
    events: list[dict[str, Any]] = []
    with open_disk(target) as disk:
        script = Script(disk, before_change=None if destroy else lambda: refuse_data(disk, target))
        for line, step in parsed or _lines():
            _run(script, line, step, events if as_json else None)
            if script.ended:
                break
        _show(script.finish(), "", None)
    if as_json:
        print_json({"target": target, "commands": events})


def _parse(line: str) -> Command | None:
    from hwloop.script.language import parse

    return parse(line)


def _lines() -> Iterator[tuple[str, Command | None]]:
    """A script; or what somebody types at a prompt, where a wrong command is no reason to end."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            yield line.strip(), _parse(line)
        return
    import readline  # noqa: F401  Its import gives input() a history.

    while True:
        try:
            line = input("hwloop> ")
            yield line.strip(), _parse(line)
        except EOFError:
            click.echo()
            return
        except DriverError as error:
            click.echo(f"hwloop: {error}", err=True)


def _run(script: Script, line: str, step: Command | None, events: list[dict[str, Any]] | None) -> None:
    if step is None:
        return
    try:
        event = script.run(step)
    except OSError as error:
        error.add_note(f"in the command: {line}")
        raise
    _show(event, line, events)


def _show(event: Event, line: str, events: list[dict[str, Any]] | None) -> None:
    if events is not None:
        events.append({"command": line, "result": event.result})
        return
    for text in event.text:
        click.echo(text)
