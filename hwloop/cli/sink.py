"""Where the bytes of a command go: a file, a pipe, or a terminal, which gets a hex dump."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

import click

Bytes = bytes | memoryview

output_option = click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of standard output.")
hexdump_option = click.option("--hexdump", is_flag=True, help="Print text in the layout of `hexdump -C`.")


def pour(
    chunks: Iterable[Bytes], offset: int, output: str | None, hexdump: bool, report: Callable[[int], None]
) -> None:
    """Write bytes to the file `output`, or to standard output for None, as a hex dump that begins at `offset` where
    one is asked for or a terminal watches. `report` is told how many bytes are done. A chunk is not used any more when
    the next one is asked for."""
    as_text = hexdump or (output is None and sys.stdout.isatty())
    with open_sink(output) as sink:
        counted = _counted(chunks, report)
        for piece in _dump(counted, offset) if as_text else counted:
            sink.write(piece)
        sink.flush()


def open_sink(output: str | None) -> AbstractContextManager[BinaryIO]:
    """A file to write, or standard output, which is not closed."""
    return open(output, "wb") if output is not None else open(sys.stdout.fileno(), "wb", closefd=False)


def _counted(chunks: Iterable[Bytes], report: Callable[[int], None]) -> Iterator[Bytes]:
    done = 0
    for chunk in chunks:
        length = len(chunk)
        yield chunk
        done += length
        report(done)


def _dump(chunks: Iterable[Bytes], offset: int) -> Iterator[bytes]:
    from hwloop.hexdump import hexdump as lines_of

    for line in lines_of(map(bytes, chunks), offset):
        yield line.encode() + b"\n"
