"""`hwloop trace`: reads what `--trace FILE` and `?filter=trace:FILE` have written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwloop.filter.event import Event
    from hwloop.filter.file import Trace

_GROUPS = {
    "registers": ("REGISTERS", "REGISTER_READ", "REGISTER_WRITE"),
    "ring": ("CHAIN", "REQUEST", "READABLE", "USED", "WRITABLE", "RING_LOST"),
    "notify": ("NOTIFY",),
    "interrupt": ("INTERRUPT", "ACK_INTERRUPT"),
    "error": ("ERROR",),
}
_KINDS = (*_GROUPS, "control")
_file = click.argument("file", type=click.Path(dir_okay=False))


@click.group("trace")
def group() -> None:
    """Read a trace: what passed between a driver and its device, with the time.

    One is written by --trace FILE of any command that opens a device, and by the target TARGET?filter=trace:FILE.
    """


@group.command("show")
@_file
@click.option("--queue", type=click.IntRange(0, 65535), help="Only what belongs to this queue.")
@click.option("--kind", "kinds", type=click.Choice(_KINDS), multiple=True, help="Only these; may be given again.")
@click.option("--from", "start", type=float, metavar="SECONDS", help="Only from this time on.")
@click.option("--to", "end", type=float, metavar="SECONDS", help="Only up to this time.")
def show(file: str, queue: int | None, kinds: tuple[str, ...], start: float | None, end: float | None) -> None:
    """Print a trace: one line an event, with the seconds since the trace began."""
    from hwloop.filter.text import lines, queue_of

    trace = _read(file)
    begin = int(trace.header.get("started_ns", 0))
    for event in trace.events():
        at = (event.ns - begin) / 1e9
        if (start is not None and at < start) or (end is not None and at > end):
            continue
        if (queue is None or queue_of(event) == queue) and (not kinds or _group_of(event) in kinds):
            click.echo(lines([event], begin)[0])


@group.command("export")
@_file
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The JSON file; - for output.")
def export(file: str, output: str) -> None:
    """Turn a trace into Chrome's JSON, for https://ui.perfetto.dev or chrome://tracing.

    Each queue is a track and each request a slice in it; registers, notifications and interrupts are instants.
    """
    from hwloop.filter.chrome import chrome_trace

    trace = _read(file)
    with click.open_file(output, "w", encoding="utf-8") as out:
        json.dump(chrome_trace(trace.events(), trace.header), out)
        out.write("\n")


def _read(file: str) -> Trace:
    from hwloop.filter.file import Trace

    return Trace.read(file)


def _group_of(event: Event) -> str:
    """The word for a kind: `control` is what is in no other group."""
    return next(iter(_groups_with(event.kind.name)), "control")


def _groups_with(name: str) -> Iterator[str]:
    return (group for group, names in _GROUPS.items() if name in names)
