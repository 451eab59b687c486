"""`hwloop rng`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hwloop.cli.common import SIZE, open_device, progress, target_argument
from hwloop.cli.sink import hexdump_option, output_option, pour

if TYPE_CHECKING:
    from hwloop.device.rng import VirtioRng

_CHUNK = 32 << 10


@click.command("rng")
@target_argument
@click.argument("length", type=SIZE)
@output_option
@hexdump_option
def command(target: str, length: int, output: str | None, hexdump: bool) -> None:
    """Read LENGTH random bytes from an entropy device.

    LENGTH is bytes, or a number with k, M, G or T. Standard output gets the bytes; a terminal gets a hex dump.
    """
    from hwloop.device.rng import VirtioRng

    with (
        open_device(target, VirtioRng, "an entropy device") as rng,
        progress(f"reading {target}", length) as report,
    ):
        pour(_chunks(rng, length), 0, output, hexdump, report)


def _chunks(rng: VirtioRng, length: int) -> Iterator[bytes]:
    """In pieces, so that a slow device has its time for each, and memory does not grow."""
    for offset in range(0, length, _CHUNK):
        yield rng.read(min(_CHUNK, length - offset))
