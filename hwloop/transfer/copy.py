"""Copying: from any source to any sink, without reading holes and without writing zeros that are there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic

from hwloop.errors import InvalidParam, Mismatch, Unsupported
from hwloop.transfer.piece import GRAIN_BYTES, PIECE_BYTES, Piece, find_zeros, is_zero
from hwloop.transfer.sink import Sink
from hwloop.transfer.source import Source

Report = Callable[[int], None]
"""Is told how many bytes are done."""


@dataclass(frozen=True)
class Job:
    """What of the source goes where: `length` bytes (None: all) from `source_offset` on, to `sink_offset`.

    `target_is_zero`: the sink reads as zeros already, so zeros are left out. `verify`: read everything back.
    """

    source_offset: int = 0
    sink_offset: int = 0
    length: int | None = None
    target_is_zero: bool = False
    verify: bool = False


@dataclass
class Outcome:
    """What was done, in bytes: `length` in all, of which `data` were written and the rest were zeros."""

    length: int = 0
    data: int = 0
    seconds: float = 0.0
    verified: bool = False

    @property
    def zeros(self) -> int:
        return self.length - self.data


@dataclass
class _Digests:
    """Of each stretch that was written, what it must read as: a digest, or None for zeros."""

    wanted: bool
    entries: list[tuple[int, int, bytes | None]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        if not self.wanted:
            return
        if piece.data is None:
            self.entries.append((piece.offset, piece.length, None))
            return
        for at in range(0, piece.length, GRAIN_BYTES):
            part = piece.data[at : at + GRAIN_BYTES]
            self.entries.append((piece.offset + at, len(part), _digest(part)))


def copy(
    source: Source, sink: Sink, job: Job, report: Report = lambda done: None, outcome: Outcome | None = None
) -> Outcome:
    """Copy, make it durable, and with `verify` read it back. `outcome` is kept up to date while it goes on.

    Raises InvalidParam before anything is written when what is known of the sizes does not fit; when a pipe is shorter
    or longer than it should be, what came and fits has been written. Raises Mismatch, and what the two ends raise.
    """
    outcome = outcome if outcome is not None else Outcome()
    check_sizes(source, sink, job)
    if job.verify and sink.is_pipe:
        raise Unsupported(f"{sink.name} cannot be read back", remedy="leave --verify out")
    sink.begin()
    start, digests = monotonic(), _Digests(job.verify)
    try:
        for piece in _pieces(source, job):
            try:
                _put(sink, piece, job, outcome)
                digests.add(piece)
            finally:
                piece.release()
            outcome.length += piece.length
            report(outcome.length)
    except InvalidParam:
        # A pipe that was too short: what came is kept.
        sink.finish(job.sink_offset + outcome.length)
        raise
    sink.finish(job.sink_offset + outcome.length)
    if job.verify:
        _verify(sink, digests)
        outcome.verified = True
    outcome.seconds = monotonic() - start
    return outcome


def check_sizes(source: Source, sink: Sink, job: Job) -> None:
    """Raises InvalidParam when the source has not so much, or the sink no room for it."""
    size, room = source.size(), sink.size()
    if size is not None and job.source_offset + (job.length or 0) > size:
        what = f"{job.length} bytes at {job.source_offset}" if job.length is not None else f"offset {job.source_offset}"
        raise InvalidParam(f"{source.name} has {size} bytes, so there is no {what}; nothing was written")
    length = job.length if size is None or job.length is not None else size - job.source_offset
    if room is not None and job.sink_offset + (length or 0) > room:
        raise InvalidParam(
            f"{length or 0} bytes at {job.sink_offset} do not fit on {sink.name}, which has {room}; nothing was "
            f"written",
            remedy="copy a part with --length",
        )


def _pieces(source: Source, job: Job) -> Iterator[Piece]:
    """The source's bytes, at their places in the sink."""
    distance = job.sink_offset - job.source_offset
    for piece in find_zeros(source.pieces(job.source_offset, job.length)):
        yield piece.moved(distance)


def _put(sink: Sink, piece: Piece, job: Job, outcome: Outcome) -> None:
    if piece.data is not None:
        sink.write(piece.offset, piece.data)
        outcome.data += piece.length
    elif not (job.target_is_zero and not sink.is_pipe):
        sink.zero(piece.offset, piece.length)


def _verify(sink: Sink, digests: _Digests) -> None:
    for offset, length, digest in digests.entries:
        for at in range(offset, offset + length, PIECE_BYTES):
            count = min(PIECE_BYTES, offset + length - at)
            found = sink.read(at, count)
            good = is_zero(found) if digest is None else _digest(found) == digest
            if not good or len(found) < count:
                raise Mismatch(
                    f"{sink.name} does not hold what was copied: the {count} bytes from {at} on are different",
                    offset=at,
                )


def _digest(data: bytes | memoryview) -> bytes:
    return blake2b(data, digest_size=16).digest()
