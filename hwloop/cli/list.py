"""`hwloop list`."""

from __future__ import annotations

import click

from hwloop.cli.common import json_option, print_json
from hwloop.cli.table import print_table

_HEADERS = ("ADDRESS", "TYPE", "ID", "DRIVER", "GROUP", "DISK", "CAN TAKE")


@click.command("list")
@json_option
def command(as_json: bool) -> None:
    """Show the virtio devices of this machine: what holds each, and whether hwloop can take it."""
    from hwloop.inventory import virtio_functions

    records = virtio_functions()
    if as_json:
        print_json({"devices": [record.as_json() for record in records]})
        return
    if not records:
        click.echo("There is no virtio PCI device on this machine.", err=True)
        return
    rows = [
        (
            record.address,
            record.type,
            f"{record.vendor_id:04x}:{record.device_id:04x}",
            record.driver or "-",
            "-" if record.iommu_group is None else str(record.iommu_group),
            ",".join(record.disks) or "-",
            "yes" if record.can_take else f"no: {record.why_not}",
        )
        for record in records
    ]
    print_table(_HEADERS, rows)
