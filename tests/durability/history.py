"""What a driver did: which writes had completed when it asked for a flush, and how long the log was after that."""

from __future__ import annotations

from dataclasses import dataclass, field

SECTOR = 512


@dataclass
class Write:
    """`began` and `ended` are positions in the history; `ended` None: it has not completed."""

    sector: int
    data: bytes
    began: int
    ended: int | None = None


@dataclass(frozen=True)
class Flush:
    """A flush that was asked for at `began`, and has completed when the log had `entries`."""

    began: int
    entries: int


@dataclass
class History:
    """Positions are counted: whatever has a lower one happened before."""

    writes: list[Write] = field(default_factory=list)
    flushes: list[Flush] = field(default_factory=list)
    _position: int = 0

    def now(self) -> int:
        self._position += 1
        return self._position

    def begin_write(self, sector: int, data: bytes) -> Write:
        write = Write(sector, data, self.now())
        self.writes.append(write)
        return write

    def end_write(self, write: Write) -> None:
        write.ended = self.now()
