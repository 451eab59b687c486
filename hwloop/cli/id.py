"""`hwloop id`."""

from __future__ import annotations

import click

from hwloop.cli.common import json_option, open_disk, print_json, target_argument


@click.command("id")
@target_argument
@json_option
def command(target: str, as_json: bool) -> None:
    """Print the serial that a disk reports of itself."""
    with open_disk(target) as disk:
        serial = disk.device_id()
    if as_json:
        print_json({"target": target, "id": serial})
    else:
        click.echo(serial)
