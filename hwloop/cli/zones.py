"""`hwloop zones`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hwloop.cli.common import SIZE, json_option, open_virtio_disk, print_json, target_argument
from hwloop.cli.table import print_table
from hwloop.size import format_size

if TYPE_CHECKING:
    from hwloop.device.blk import VirtioBlk
    from hwloop.device.blk_zoned import Zone

_HEADERS = ("OFFSET", "LENGTH", "CAPACITY", "WRITE POINTER", "TYPE", "STATE")
_ACTIONS = ("open", "close", "finish", "reset")


@click.command("zones")
@target_argument
@click.option("--offset", type=SIZE, default=0, metavar="SIZE", help="Begin with the zone that this byte is in.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Show so many zones at most.")
@click.option("--open", "open_", type=SIZE, metavar="OFFSET", help="Open the zone that begins there.")
@click.option("--close", type=SIZE, metavar="OFFSET", help="Close it.")
@click.option("--finish", type=SIZE, metavar="OFFSET", help="Make it full.")
@click.option("--reset", type=SIZE, metavar="OFFSET", help="Empty it: its data is lost.")
@click.option("--reset-all", is_flag=True, help="Empty all zones: all data is lost.")
@json_option
def command(
    target: str, offset: int, count: int | None, open_: int | None, close: int | None, finish: int | None,
    reset: int | None, reset_all: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show the zones of a zoned disk, and before that do something with one."""
    wanted = {
        name: at for name, at in zip(_ACTIONS, (open_, close, finish, reset), strict=True) if at is not None
    }  # fmt: skip
    if len(wanted) + reset_all > 1:
        raise click.UsageError("one thing at a time: --open, --close, --finish, --reset or --reset-all")
    with open_virtio_disk(target) as disk:
        _act(disk, target, wanted, reset_all)
        limits, zones = disk.limits.zones, disk.zones(offset, count)
    if as_json:
        model = limits.model.name.lower() if limits is not None else None
        print_json({"target": target, "model": model, "zones": [_as_json(zone) for zone in zones]})
    else:
        print_table(_HEADERS, [_row(zone) for zone in zones])


def _act(disk: VirtioBlk, target: str, wanted: dict[str, int], reset_all: bool) -> None:
    if reset_all:
        click.echo(f"emptying all zones of {target}", err=True)
        disk.reset_all_zones()
    for name, at in wanted.items():
        if name == "reset":
            click.echo(f"emptying the zone at byte {at} of {target}", err=True)
        getattr(disk, f"{name}_zone")(at)


def _as_json(zone: Zone) -> dict[str, Any]:
    return {
        "offset": zone.offset,
        "length": zone.length,
        "capacity": zone.capacity,
        "write_pointer": zone.write_pointer,
        "type": zone.type.name.lower(),
        "state": zone.state.name.lower(),
    }


def _row(zone: Zone) -> tuple[str, ...]:
    pointer = "-" if zone.write_pointer is None else f"{zone.write_pointer:#x}"
    words = (zone.type.name.lower().replace("_", " "), zone.state.name.lower().replace("_", " "))
    return f"{zone.offset:#x}", format_size(zone.length), format_size(zone.capacity), pointer, *words
