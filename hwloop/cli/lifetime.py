"""`hwloop lifetime`."""

from __future__ import annotations

import click

from hwloop.cli.common import json_option, open_virtio_disk, print_json, target_argument


@click.command("lifetime")
@target_argument
@json_option
def command(target: str, as_json: bool) -> None:
    """Show how worn a disk is, where it tells (VIRTIO_BLK_F_LIFETIME)."""
    with open_virtio_disk(target) as disk:
        found = disk.lifetime()
    if as_json:
        print_json(
            {
                "target": target, "pre_eol": found.pre_eol.name.lower(), "estimate_a": found.estimate_a,
                "estimate_b": found.estimate_b,
            }
        )  # fmt: skip
    else:
        click.echo(str(found))
