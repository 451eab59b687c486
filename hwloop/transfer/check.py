"""Writing a pattern to a disk, and checking that it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hwloop.device.block import BlockDevice
from hwloop.device.stream import read_range, write_range
from hwloop.spec import SECTOR_SIZE
from hwloop.transfer.compare import first_difference
from hwloop.transfer.pattern import Pattern
from hwloop.transfer.piece import PIECE_BYTES

_SHOWN = 16


@dataclass(frozen=True)
class Finding:
    """The first byte that is not as it should be, and a few bytes from there on."""

    offset: int
    expected: bytes
    found: bytes
    explanation: str = ""

    def as_json(self) -> dict[str, object]:
        return {
            "offset": self.offset,
            "expected": self.expected.hex(),
            "found": self.found.hex(),
            "explanation": self.explanation or None,
        }

    def __str__(self) -> str:
        where = f"byte {self.offset} ({self.offset:#x}, sector {self.offset // SECTOR_SIZE})"
        text = f"{where} is {self.found.hex(' ')}, and should be {self.expected.hex(' ')}"
        return f"{text}; {self.explanation}" if self.explanation else text


def write_pattern(
    disk: BlockDevice, offset: int, length: int, pattern: Pattern, report: Callable[[int], None] = lambda done: None
) -> None:
    """Write the pattern to a range, and flush."""
    for done in write_range(disk, offset, _chunks(pattern, offset, length)):
        report(done)
    disk.flush()


def check_pattern(
    disk: BlockDevice, offset: int, length: int, pattern: Pattern, report: Callable[[int], None] = lambda done: None
) -> Finding | None:
    """The first place in a range that does not hold the pattern, or None."""
    position = offset
    for chunk in read_range(disk, offset, length):
        expected = pattern.content(position, len(chunk))
        at = first_difference(expected, chunk)
        if at is not None:
            return _finding(disk, pattern, position + at, expected[at : at + _SHOWN], chunk[at : at + _SHOWN])
        position += len(chunk)
        report(position - offset)
    return None


def _finding(disk: BlockDevice, pattern: Pattern, offset: int, expected: bytes, found: bytes) -> Finding:
    start = offset // SECTOR_SIZE * SECTOR_SIZE
    sector = b"".join(read_range(disk, start, SECTOR_SIZE))
    return Finding(offset, expected, found, pattern.explain(sector))


def _chunks(pattern: Pattern, offset: int, length: int) -> Iterator[bytes]:
    for at in range(offset, offset + length, PIECE_BYTES):
        yield pattern.content(at, min(PIECE_BYTES, offset + length - at))
