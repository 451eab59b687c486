"""Bytes for the eye, in the layout of `hexdump -C`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_WIDTH = 16


def hexdump(chunks: Iterable[bytes], offset: int = 0) -> Iterator[str]:
    """Lines for a stream of bytes that begins at `offset`.

    As `hexdump -C`: lines equal to the one before are left out behind a `*`, and the last line is the end offset; of
    nothing, nothing is shown.
    """
    previous, starred = b"", False
    for line in _lines(chunks):
        if line == previous and len(line) == _WIDTH:
            if not starred:
                yield "*"
            starred = True
        else:
            yield _format(offset, line)
            starred = False
        previous = line
        offset += len(line)
    if previous:
        yield f"{offset:08x}"


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        rest += chunk
        whole = len(rest) // _WIDTH * _WIDTH
        for start in range(0, whole, _WIDTH):
            yield rest[start : start + _WIDTH]
        rest = rest[whole:]
    if rest:
        yield rest


def _format(offset: int, line: bytes) -> str:
    left, right = line[:8].hex(" "), line[8:].hex(" ")
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)
    return f"{offset:08x}  {left:<23}  {right:<23}  |{text}|"
