"""`hwloop list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hwloop.cli.common import json_option, print_json
from hwloop.cli.table import print_table

if TYPE_CHECKING:
    from hwloop.inventory import Record
    from hwloop.inventory_mmio import MmioRecord

_HEADERS = ("ADDRESS", "TYPE", "ID", "DRIVER", "GROUP", "DISK", "CAN TAKE")
_MMIO_HEADERS = ("TARGET", "TYPE", "NODE", "DRIVER", "IRQ", "DISK", "CAN TAKE")


@click.command("list")
@json_option
def command(as_json: bool) -> None:
    """Show the virtio devices of this machine: what holds each, and whether hwloop can take it."""
    from hwloop.inventory import virtio_functions
    from hwloop.inventory_mmio import mmio_devices

    functions, nodes = virtio_functions(), mmio_devices()
    if as_json:
        print_json(
            {"devices": [record.as_json() for record in functions], "mmio": [record.as_json() for record in nodes]}
        )
        return
    if functions:
        print_table(_HEADERS, [_function(record) for record in functions])
    if nodes:
        _print_nodes(nodes, first=not functions)
    if not functions and not nodes:
        click.echo("There is no virtio device on this machine; qemu:DISK.img or fake:16M need none.", err=True)


def _print_nodes(nodes: list[MmioRecord], *, first: bool) -> None:
    """Boards have dozens of slots, most of them empty; what is behind one only its registers tell."""
    known = [record for record in nodes if record.type is not None or record.driver is not None]
    if known:
        if not first:
            click.echo()
        print_table(_MMIO_HEADERS, [_node(record) for record in known])
    others = [record.target for record in nodes if record not in known]
    if others:
        span = others[0] if len(others) == 1 else f"{others[0]} to {others[-1]}"
        click.echo(f"{len(others)} virtio-mmio slots are held by no driver and may be empty: {span}")


def _function(record: Record) -> tuple[str, ...]:
    return (
        record.address,
        record.type,
        f"{record.vendor_id:04x}:{record.device_id:04x}",
        record.driver or "-",
        "-" if record.iommu_group is None else str(record.iommu_group),
        ",".join(record.disks) or "-",
        "yes" if record.can_take else f"no: {record.why_not}",
    )


def _node(record: MmioRecord) -> tuple[str, ...]:
    return (
        record.target,
        record.type or "-",
        record.name,
        record.driver or "-",
        "-" if record.irq is None else str(record.irq),
        ",".join(record.disks) or "-",
        "yes" if record.can_take else f"no: {record.why_not}",
    )
