"""`hwloop verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hwloop.cli.common import (
    SIZE,
    bytes_text,
    destroy_option,
    json_option,
    open_disk,
    print_json,
    progress,
    progress_option,
    target_argument,
)

if TYPE_CHECKING:
    from hwloop.transfer.check import Finding


@click.command("verify")
@target_argument
@click.argument("offset", type=SIZE, default=0)
@click.argument("length", type=SIZE, required=False)
@click.option(
    "--pattern", "text", required=True, metavar="PATTERN",
    help="What is to be there: bytes (0xaa, 0xdeadbeef), stamp (each sector says its number) or random; the latter "
    "two also as random:SEED.",
)  # fmt: skip
@click.option("--write", is_flag=True, help="Write the pattern first. This destroys what is there.")
@destroy_option
@progress_option
@json_option
def command(
    target: str,
    offset: int,
    length: int | None,
    text: str,
    write: bool,
    destroy: bool,
    show_progress: bool | None,
    as_json: bool,
) -> int:
    """Check that a disk holds a pattern, from OFFSET on for LENGTH bytes (default: all of it).

    Exit status 1 when it does not; the first byte that differs is shown, and with the pattern `stamp` where that data
    belongs. With --write the pattern is written and flushed first.
    """
    from hwloop.device.stream import check_range
    from hwloop.transfer.check import check_pattern, write_pattern
    from hwloop.transfer.pattern import parse_pattern

    pattern = parse_pattern(text)
    with open_disk(target, destroy=destroy or not write) as disk:
        length = max(disk.size() - offset, 0) if length is None else length
        check_range(disk, offset, length)
        if write:
            click.echo(f"writing {text} to {bytes_text(length)} of {target}, from byte {offset} on", err=True)
            with progress(f"writing {target}", length, wanted=show_progress) as report:
                write_pattern(disk, offset, length, pattern, report)
        with progress(f"checking {target}", length, wanted=show_progress) as report:
            finding = check_pattern(disk, offset, length, pattern, report)
    _say(target, offset, length, text, finding, as_json)
    return 0 if finding is None else 1


def _say(target: str, offset: int, length: int, text: str, finding: Finding | None, as_json: bool) -> None:
    if as_json:
        difference = None if finding is None else finding.as_json()
        print_json(
            {"target": target, "offset": offset, "length": length, "pattern": text, "first_difference": difference}
        )
    elif finding is None:
        click.echo(f"{target} holds {text} in {bytes_text(length)} from byte {offset} on")
    else:
        click.echo(f"{target} does not hold {text}: {finding}")
