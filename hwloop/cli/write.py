"""`hwloop write`."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

import click

from hwloop.cli.common import (
    SIZE,
    bytes_text,
    destroy_option,
    json_option,
    open_disk,
    print_json,
    progress,
    target_argument,
)
from hwloop.signals import standard_input


@click.command("write")
@target_argument
@click.argument("offset", type=SIZE)
@click.option("-i", "--input", "source", metavar="FILE", help="Read from FILE instead of standard input.")
@click.option("--no-flush", is_flag=True, help="Do not make the data durable at the end.")
@destroy_option
@json_option
def command(target: str, offset: int, source: str | None, no_flush: bool, destroy: bool, as_json: bool) -> None:
    """Write bytes to a disk, beginning at OFFSET (bytes, or a number with k, M, G or T).

    Where the data is not whole blocks, the rest of the first and the last block keeps what it had. At the end the
    disk is flushed.
    """
    from hwloop.device.stream import check_range, write_stream

    with _source(source) as stream:
        total = _size_of(stream)
        with open_disk(target, destroy=destroy) as disk, progress(f"writing {target}", total) as report:
            check_range(disk, offset, total or 0)
            counter = _Counter(stream)
            for done in write_stream(disk, offset, counter.fill):
                report(done)
            if not no_flush:
                disk.flush()
    if as_json:
        print_json({"target": target, "offset": offset, "bytes": counter.count, "flushed": not no_flush})
        return
    click.echo(f"{bytes_text(counter.count)} written to {target} at {offset}", err=True)


class _Counter:
    """Reads from a stream; `count` is how many bytes came."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.count = 0

    def fill(self, memory: memoryview) -> int:
        count = self._stream.readinto(memory)  # type: ignore[attr-defined]
        self.count += count
        return int(count)


def _source(source: str | None) -> BinaryIO:
    return open(source, "rb") if source is not None else standard_input()


def _size_of(stream: BinaryIO) -> int | None:
    """How many bytes are to come, where that is known: then nothing is written of what does not fit."""
    status = os.fstat(stream.fileno())
    return status.st_size - stream.tell() if stat.S_ISREG(status.st_mode) else None
