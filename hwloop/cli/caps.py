"""`hwloop caps`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hwloop.cli.common import json_option, print_json, target_argument
from hwloop.cli.info import bar_text, capability_text

if TYPE_CHECKING:
    from hwloop.describe_pci import PciDescription


@click.command("caps")
@target_argument
@click.option("--hexdump", is_flag=True, help="Show the bytes of the configuration space too.")
@json_option
def command(target: str, hexdump: bool, as_json: bool) -> None:
    """Show the PCI capabilities of a device, its BARs and its MSI-X table; virtio's own capabilities are taken apart.

    A function of this machine is read through sysfs: nobody is disturbed, also when it is in use.
    """
    from hwloop.describe_pci import describe_pci

    description = describe_pci(target)
    if as_json:
        print_json({"target": target, **description.as_json()})
        return
    for line in _lines(description):
        click.echo(line)
    if hexdump:
        from hwloop.hexdump import hexdump as lines_of

        click.echo()
        for line in lines_of([description.config]):
            click.echo(line)


def _lines(description: PciDescription) -> Iterator[str]:
    yield f"{description.vendor_id:04x}:{description.device_id:04x} revision {description.revision:02x}"
    yield from ["", "BARs", *(bar_text(bar) for bar in description.bars)]
    yield from ["", "Capabilities", *(capability_text(entry) for entry in description.capabilities)]
    yield from (f"  [{entry['offset']:#05x}] {entry['name']}" for entry in description.extended_capabilities)
    if description.fault:
        yield f"  {description.fault}"
    if description.msix_vectors:
        state = "on" if description.msix_enabled else "off"
        yield from ["", f"MSI-X  {description.msix_vectors} vectors, {state}"]
