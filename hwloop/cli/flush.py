"""`hwloop flush`."""

from __future__ import annotations

import click

from hwloop.cli.common import open_disk, target_argument


@click.command("flush")
@target_argument
def command(target: str) -> None:
    """Make everything that was written to a disk durable."""
    with open_disk(target) as disk:
        disk.flush()
