"""A stretch of bytes at its place, and where in it there is nothing but zeros."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PIECE_BYTES = 1 << 20
"""The most bytes of data that one piece carries; a piece of zeros has any length."""
GRAIN_BYTES = 64 << 10
"""How small a stretch of zeros may be and still be treated as one. No block is larger."""

_ZEROS = bytes(PIECE_BYTES)


@dataclass(frozen=True)
class Piece:
    """`length` bytes from `offset` on; `data` None: they are all zero. A view is of memory that is used again: it is
    there until the source is asked for the next piece, and is to be released before the source is closed."""

    offset: int
    length: int
    data: bytes | memoryview | None

    @property
    def end(self) -> int:
        """The first offset behind it."""
        return self.offset + self.length

    @property
    def content(self) -> bytes:
        """Its bytes; not for a piece of zeros that may be long."""
        return bytes(self.data) if self.data is not None else bytes(self.length)

    def release(self) -> None:
        """The bytes are not looked at any more."""
        if isinstance(self.data, memoryview):
            self.data.release()

    def moved(self, distance: int) -> Piece:
        """The same bytes at another place."""
        return Piece(self.offset + distance, self.length, self.data)


def is_zero(data: bytes | memoryview) -> bool:
    """Whether there is nothing but zeros."""
    return all(_ZEROS.startswith(data[at : at + PIECE_BYTES]) for at in range(0, len(data), PIECE_BYTES))


def find_zeros(pieces: Iterable[Piece], grain: int = GRAIN_BYTES) -> Iterator[Piece]:
    """The same bytes, with runs of zeros as pieces of their own: whole grains, and what is left at the end."""
    for piece in pieces:
        if piece.data is None or not piece.length:
            yield piece
        else:
            yield from _split(piece.offset, piece.data, grain)


def _split(offset: int, data: bytes | memoryview, grain: int) -> Iterator[Piece]:
    start, was_zero = 0, is_zero(data[:grain])
    for at in range(grain, len(data), grain):
        zero = is_zero(data[at : at + grain])
        if zero is not was_zero:
            yield _piece(offset, data, start, at, was_zero)
            start, was_zero = at, zero
    yield _piece(offset, data, start, len(data), was_zero)


def _piece(offset: int, data: bytes | memoryview, start: int, end: int, zero: bool) -> Piece:
    return Piece(offset + start, end - start, None if zero else data[start:end])
