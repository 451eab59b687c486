"""Comparing two sources, byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hwloop.errors import InvalidParam
from hwloop.transfer.piece import PIECE_BYTES, Piece
from hwloop.transfer.source import Source


@dataclass(frozen=True)
class Comparison:
    """`offset` is the first byte that differs, None when nothing does; `length` how many bytes were equal up to there.

    `longer` names the end that has more bytes than the other one, and "" is neither; the rest was zeros unless `offset`
    says otherwise.
    """

    length: int
    offset: int | None = None
    longer: str = ""

    @property
    def equal(self) -> bool:
        return self.offset is None


def compare(
    first: Source,
    second: Source,
    length: int | None = None,
    *,
    strict: bool = False,
    report: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Compare `length` bytes, or all there are. Where one is longer, the rest of it must be zeros, as behind an image
    on a larger disk; with `strict` that is a difference. Raises InvalidParam for a range that one of them has not."""
    for source in (first, second):
        size = source.size()
        if length is not None and size is not None and length > size:
            raise InvalidParam(f"{source.name} has {size} bytes, fewer than {length}")
    ends = _Reader(first, length), _Reader(second, length)
    done = 0
    while (room := min(end.available() for end in ends)) > 0:
        left, right = (end.take(room) for end in ends)
        difference = _first_difference(left, right)
        if difference is not None:
            return Comparison(done + difference, done + difference)
        done += room
        report(done)
    return _rest(ends, done, strict)


def _rest(ends: tuple[_Reader, _Reader], done: int, strict: bool) -> Comparison:
    """One of them has ended at least."""
    for end in ends:
        if not end.available():
            continue
        if strict:
            return Comparison(done, done, end.name)
        length = done
        while room := end.available():
            difference = _first_difference(end.take(room), Piece(0, room, None))
            if difference is not None:
                return Comparison(length + difference, length + difference, end.name)
            length += room
        return Comparison(length, None, end.name)
    return Comparison(done)


class _Reader:
    """A source in the portions that somebody asks for."""

    def __init__(self, source: Source, length: int | None) -> None:
        self.name = source.name
        self._pieces: Iterator[Piece] = source.pieces(0, length)
        self._piece: Piece | None = None

    def available(self) -> int:
        """How many bytes `take` gives at most; 0 at the end."""
        while self._piece is None or not self._piece.length:
            self._piece = next(self._pieces, None)
            if self._piece is None:
                return 0
        return min(self._piece.length, PIECE_BYTES)

    def take(self, count: int) -> Piece:
        piece = self._piece
        assert piece is not None, "available() said so"
        data, rest = piece.data, None
        if data is not None:
            data, rest = data[:count], data[count:]
        self._piece = Piece(piece.offset + count, piece.length - count, rest)
        return Piece(piece.offset, count, data)


def _first_difference(left: Piece, right: Piece) -> int | None:
    """Where two pieces of one length begin to differ."""
    if left.data is None and right.data is None:
        return None
    return first_difference(left.content, right.content)


def first_difference(left: bytes, right: bytes) -> int | None:
    """The first index at which two strings of one length differ, by halves: comparing memory is fast, a loop is not."""
    if left == right:
        return None
    low, high = 0, len(left)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle)
    return low
