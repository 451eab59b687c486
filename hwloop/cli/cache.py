"""`hwloop cache`."""

from __future__ import annotations

import click

from hwloop.cli.common import json_option, open_virtio_disk, print_json, target_argument


@click.command("cache")
@target_argument
@click.argument("mode", type=click.Choice(["writeback", "writethrough"]), required=False)
@json_option
def command(target: str, mode: str | None, as_json: bool) -> None:
    """Show whether a disk's write cache is on (writeback) or off (writethrough), or switch it.

    With writeback, a write that has completed may be lost until the next flush. A device forgets the mode when it is
    reset, as it is when it is given back: to keep it, set it in the program that uses the disk.
    """
    with open_virtio_disk(target) as disk:
        if mode is not None:
            disk.set_cache_mode(mode)
        found = disk.read_cache_mode().value
        switchable = "VIRTIO_BLK_F_CONFIG_WCE" in disk.features
    if as_json:
        print_json({"target": target, "cache": found, "switchable": switchable})
    else:
        click.echo(f"{found}{'' if switchable else ' (it cannot be switched)'}")
