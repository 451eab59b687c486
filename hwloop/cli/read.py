"""`hwloop read`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

import click

from hwloop.cli.common import SIZE, open_disk, progress, target_argument


@click.command("read")
@target_argument
@click.argument("offset", type=SIZE)
@click.argument("length", type=SIZE)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of standard output.")
@click.option("--hexdump", is_flag=True, help="Print text in the layout of `hexdump -C`.")
def command(target: str, offset: int, length: int, output: str | None, hexdump: bool) -> None:
    """Read LENGTH bytes at OFFSET of a disk.

    Both are bytes, or numbers with k, M, G or T, and need not be whole blocks. Standard output gets the bytes; a
    terminal gets a hex dump.
    """
    from hwloop.device.stream import check_range, read_range

    as_text = hexdump or (output is None and sys.stdout.isatty())
    with open_disk(target) as disk:
        check_range(disk, offset, length)
        with _sink(output) as sink, progress(f"reading {target}", length) as report:
            chunks = _counted(read_range(disk, offset, length), report)
            if as_text:
                _dump(chunks, offset, sink)
            else:
                for chunk in chunks:
                    sink.write(chunk)
            sink.flush()


def _sink(output: str | None) -> BinaryIO:
    # Standard output is not ours to close: a duplicate is.
    return open(output, "wb") if output is not None else open(sys.stdout.fileno(), "wb", closefd=False)


def _counted(chunks: Iterator[bytes], report: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        report(done)


def _dump(chunks: Iterator[bytes], offset: int, sink: BinaryIO) -> None:
    from hwloop.hexdump import hexdump as lines_of

    for line in lines_of(chunks, offset):
        sink.write(line.encode() + b"\n")
