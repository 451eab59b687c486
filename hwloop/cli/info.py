"""`hwloop info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hwloop.cli.common import json_option, print_json, target_argument
from hwloop.size import format_size
from hwloop.spec import feature_names

if TYPE_CHECKING:
    from hwloop.describe import Description, Registers


@click.command("info")
@target_argument
@json_option
def command(target: str, as_json: bool) -> None:
    """Show one device: capabilities, BARs, features offered, queues and configuration.

    Registers are read from the device itself, which is taken from its kernel driver for a moment and given back. A
    disk that is in use is not touched: then only what sysfs knows is shown.
    """
    from hwloop.describe import describe

    description = describe(target)
    if as_json:
        print_json(description.as_json())
        return
    for line in _lines(description):
        click.echo(line)


def _lines(description: Description) -> list[str]:
    lines = [*_device(description), *_way(description)]
    if description.record is not None:
        lines += _pci(description)
    if description.registers is None:
        lines += ["", f"Features, queues and configuration were not read: {description.why_not}"]
    else:
        lines += _registers(description, description.registers)
    return lines


def _pci(description: Description) -> list[str]:
    lines = ["", "BARs", *(bar_text(bar) for bar in description.bars)]
    lines += ["", "Capabilities", *(capability_text(entry) for entry in description.capabilities)]
    lines += [f"  [{entry['offset']:#05x}] {entry['name']}" for entry in description.extended_capabilities]
    return [*lines, f"  {description.fault}"] if description.fault else lines


def _way(description: Description) -> list[str]:
    way = description.way
    if way is None:
        return []
    return [f"  reached by   {way.transport} over {way.hal}{f': {way.why}' if way.why else ''}"]


def _device(description: Description) -> list[str]:
    record = description.record
    if record is None:
        return [f"{description.target}  {description.type.label if description.type else 'unknown'}"]
    kind = "transitional" if record.transitional else "modern"
    return [
        f"{record.address}  {record.type}, {record.vendor_id:04x}:{record.device_id:04x} ({kind})",
        f"  driver       {record.driver or 'none'}",
        f"  IOMMU group  {'none' if record.iommu_group is None else record.iommu_group}",
        f"  disk         {', '.join(record.disks) or 'none'}",
        f"  can take     {'yes' if record.can_take else 'no: ' + record.why_not}",
    ]


def bar_text(bar: dict[str, Any]) -> str:
    """A line about a BAR."""
    where = f"  BAR {bar['index']}  {bar['kind']:6}  {bar['address']:#018x}  {format_size(bar['size'])}"
    if bar["kind"] == "io":
        return where
    return f"{where}, {bar['type']}{', prefetchable' if bar['prefetchable'] else ''}"


def capability_text(entry: dict[str, Any]) -> str:
    """A line about a capability."""
    text = f"  [{entry['offset']:#04x}] {entry['name']}"
    virtio = entry.get("virtio")
    if virtio is None:
        return text
    text += f": {virtio['structure']}"
    if virtio["length"]:
        text += f" in BAR {virtio['bar']} at {virtio['offset']:#x}, {virtio['length']:#x} bytes"
    if virtio["notify_off_multiplier"]:
        text += f", multiplier {virtio['notify_off_multiplier']}"
    return f"{text}; it {virtio['fault']}" if virtio["fault"] else text


def _registers(description: Description, registers: Registers) -> list[str]:
    names = feature_names(registers.features, description.type)
    lines = ["", f"Features offered  {registers.features:#x}", *(f"  {name}" for name in names)]
    lines += ["", "Queues", *(f"  {index}: up to {size} descriptors" for index, size in enumerate(registers.queues))]
    if registers.config:
        lines += ["", "Configuration", *(f"  {name:30} {value}" for name, value in registers.config.items())]
    return lines
