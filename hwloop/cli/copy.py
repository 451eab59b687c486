"""`hwloop copy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hwloop.cli.common import (
    END,
    SIZE,
    bytes_text,
    destroy_option,
    json_option,
    print_json,
    progress,
    progress_option,
    rate_text,
)

if TYPE_CHECKING:
    from hwloop.transfer.copy import Outcome


@click.command("copy")
@click.argument("source", metavar="SRC", type=END)
@click.argument("destination", metavar="DST", type=END)
@click.option("--length", type=SIZE, metavar="SIZE", help="How much to copy; default: all of SRC.")
@click.option("--src-offset", type=SIZE, default=0, metavar="SIZE", help="Where to begin in SRC.")
@click.option(
    "--dst-offset", type=SIZE, default=None, metavar="SIZE",
    help="Where to begin in DST. A file then keeps what it has around the range; without it, it is replaced.",
)  # fmt: skip
@click.option("--target-is-zero", is_flag=True, help="DST reads as zeros already, so zeros need not be written.")
@click.option("--verify", is_flag=True, help="Read DST back at the end; a difference is exit status 1.")
@destroy_option
@progress_option
@json_option
def command(
    source: str,
    destination: str,
    length: int | None,
    src_offset: int,
    dst_offset: int | None,
    target_is_zero: bool,
    verify: bool,
    destroy: bool,
    show_progress: bool | None,
    as_json: bool,
) -> None:
    """Copy a disk, a file or a pipe to another one.

    SRC and DST are devices (see TARGET in `hwloop --help`), files, or - for standard input and output; `file:NAME` is a
    file whatever its name. Holes of SRC are not read, zeros are not stored: a file gets holes, a disk WRITE_ZEROES
    where it has that. At the end DST is flushed.

    What is known not to fit is refused before anything is written. A pipe that is longer than the disk fills the disk,
    and is exit status 2.
    """
    from hwloop.transfer.copy import Job, Outcome, copy
    from hwloop.transfer.end import check_different, open_sink, open_source

    check_different(source, destination)
    job = Job(src_offset, dst_offset or 0, length, target_is_zero, verify)
    outcome = Outcome()
    keep = dst_offset is not None
    with open_source(source) as reading, open_sink(destination, keep=keep, destroy=destroy) as writing:
        size = reading.size()
        total = length if length is not None or size is None else size - src_offset
        try:
            with progress("copying", total, wanted=show_progress) as report:
                copy(reading, writing, job, report, outcome)
        except BaseException as ending:
            if outcome.length:
                ending.add_note(f"{bytes_text(outcome.length)} had been copied to {destination}")
            raise
    _say(source, destination, outcome, as_json)


def _say(source: str, destination: str, outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "source": source, "destination": destination, "bytes": outcome.length, "data_bytes": outcome.data,
                "zero_bytes": outcome.zeros, "verified": outcome.verified, "seconds": round(outcome.seconds, 6),
            },
            err=destination == "-",
        )  # fmt: skip
        return
    zeros = f", {bytes_text(outcome.zeros)} of them zeros" if outcome.zeros else ""
    verified = ", verified" if outcome.verified else ""
    rate = rate_text(outcome.length, outcome.seconds)
    click.echo(f"{bytes_text(outcome.length)} copied from {source} to {destination}{zeros}{verified}{rate}", err=True)
