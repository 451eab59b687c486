"""Whether an image would have everything that was flushed, whenever the power had failed.

After a failure an image has what came before the last flush in its log, and of what came behind it any part, sector by
sector. So for every sector there is a set of things that it may hold, and each of them has to be right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.durability.history import SECTOR, Flush, History, Write
from tests.durability.write_log import Entry

NEVER_WRITTEN = bytes(SECTOR)


def lost(history: History, log: list[Entry]) -> list[str]:
    """What the image would not have although it was flushed; empty when it is durable."""
    found = []
    for flush in history.flushes:
        possible = _possible(log, flush.entries)
        for sector, allowed in _needed(history, flush).items():
            if not possible.get(sector, {NEVER_WRITTEN}) <= allowed:
                found.append(_sentence(sector, flush))
    return found


def _needed(history: History, flush: Flush) -> dict[int, set[bytes]]:
    """Of each sector that was written and flushed: what it may hold. That is what any write put there which no other
    one is known to have followed before the flush was asked for."""
    flushed: dict[int, list[Write]] = defaultdict(list)
    for write in history.writes:
        for sector, _ in _sectors(write.sector, write.data):
            flushed[sector].append(write)
    return {
        sector: {_value(write, sector) for write in writes if not _is_followed(write, writes, flush)}
        for sector, writes in flushed.items()
        if any(write.ended is not None and write.ended < flush.began for write in writes)
    }


def _is_followed(write: Write, writes: list[Write], flush: Flush) -> bool:
    """Whether another write to the same sector began after the end of this one, and ended before the flush."""
    ended = write.ended
    return ended is not None and any(
        other.began > ended and other.ended is not None and other.ended < flush.began for other in writes
    )


def _possible(log: list[Entry], first: int) -> dict[int, set[bytes]]:
    """What each sector may hold after a failure at any moment from entry `first` of the log on."""
    kept: dict[int, bytes] = {}
    latest: dict[int, bytes] = {}
    floating: dict[int, set[bytes]] = defaultdict(set)
    possible: dict[int, set[bytes]] = defaultdict(set)
    for number, entry in enumerate(log):
        if number == first:
            _note(possible, kept, floating)
        for sector, data in _sectors(entry.sector, entry.data):
            floating[sector].add(data)
            latest[sector] = data
            kept.setdefault(sector, NEVER_WRITTEN)
            if number >= first:
                possible[sector].add(data)
        if entry.is_flush:
            kept |= latest
            floating.clear()
    if first >= len(log):
        _note(possible, kept, floating)
    return possible


def _note(possible: dict[int, set[bytes]], kept: dict[int, bytes], floating: dict[int, set[bytes]]) -> None:
    for sector, data in kept.items():
        possible[sector] |= {data, *floating.get(sector, ())}


def _sectors(first: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, len(data), SECTOR):
        yield first + offset // SECTOR, data[offset : offset + SECTOR]


def _value(write: Write, sector: int) -> bytes:
    start = (sector - write.sector) * SECTOR
    return write.data[start : start + SECTOR]


def _sentence(sector: int, flush: Flush) -> str:
    return f"sector {sector} may not hold what was flushed when the log had {flush.entries} entries"
