"""`hwloop read`."""

from __future__ import annotations

from contextlib import closing

import click

from hwloop.cli.common import SIZE, open_disk, progress, target_argument
from hwloop.cli.sink import hexdump_option, output_option, pour


@click.command("read")
@target_argument
@click.argument("offset", type=SIZE)
@click.argument("length", type=SIZE)
@output_option
@hexdump_option
def command(target: str, offset: int, length: int, output: str | None, hexdump: bool) -> None:
    """Read LENGTH bytes at OFFSET of a disk.

    Both are bytes, or numbers with k, M, G or T, and need not be whole blocks. Standard output gets the bytes; a
    terminal gets a hex dump.
    """
    from hwloop.device.stream import check_range, read_views

    with open_disk(target) as disk:
        check_range(disk, offset, length)
        views = read_views(disk, offset, length)
        with progress(f"reading {target}", length) as report, closing(views):
            pour(views, offset, output, hexdump, report)
