"""`hwloop flush`."""

from __future__ import annotations

import click

from hwloop.cli.common import json_option, open_disk, print_json, target_argument


@click.command("flush")
@target_argument
@json_option
def command(target: str, as_json: bool) -> None:
    """Make everything that was written to a disk durable."""
    with open_disk(target) as disk:
        disk.flush()
    if as_json:
        print_json({"target": target})
