"""`hwloop compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hwloop.cli.common import END, SIZE, bytes_text, json_option, print_json, progress, progress_option

if TYPE_CHECKING:
    from hwloop.transfer.compare import Comparison


@click.command("compare")
@click.argument("first", metavar="A", type=END)
@click.argument("second", metavar="B", type=END)
@click.option("--length", type=SIZE, metavar="SIZE", help="How much to compare; default: all.")
@click.option("--strict", is_flag=True, help="A different size is a difference, also when the rest is zeros.")
@progress_option
@json_option
def command(
    first: str, second: str, length: int | None, strict: bool, show_progress: bool | None, as_json: bool
) -> int:
    """Compare two disks, files or pipes. Exit status 0: equal; 1: different.

    A and B are devices, files, or - for standard input. Where one is longer, the rest of it must be zeros.
    """
    from hwloop.transfer.compare import compare
    from hwloop.transfer.end import open_source

    if first == second:
        # A device and the image behind it are two ways to the same bytes, and worth comparing.
        raise click.UsageError(f"{first} cannot be both of them")
    with open_source(first) as left, open_source(second) as right:
        sizes = [size for size in (length, left.size(), right.size()) if size is not None]
        with progress(f"comparing {first}", min(sizes, default=None), wanted=show_progress) as report:
            found = compare(left, right, length, strict=strict, report=report)
    if as_json:
        print_json(
            {
                "first": first, "second": second, "equal": found.equal, "first_difference": found.offset,
                "equal_bytes": found.length, "longer": found.longer or None,
            }
        )  # fmt: skip
    else:
        click.echo(_sentence(first, second, found))
    return 0 if found.equal else 1


def _sentence(first: str, second: str, found: Comparison) -> str:
    if found.offset is not None:
        sector = f"sector {found.offset // 512}"
        return f"{first} and {second} differ from byte {found.offset} ({found.offset:#x}, {sector}) on"
    rest = f"; {found.longer} is longer, and the rest is zeros" if found.longer else ""
    return f"{first} and {second} are equal: {bytes_text(found.length)}{rest}"
