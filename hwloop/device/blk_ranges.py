"""Ranges that are discarded, zeroed or erased, without their data going anywhere (VIRTIO 1.4, 5.2.6)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

from hwloop.device.blk_formats import SEGMENT_BYTES, UNMAP, Segment
from hwloop.device.blk_limits import RangeLimits
from hwloop.device.blk_protocol import RequestType
from hwloop.device.block import BlockDevice
from hwloop.errors import InvalidParam, IoError, Unsupported
from hwloop.spec import SECTOR_SIZE

Range = tuple[int, int]
"""The offset and the length of a range, in bytes."""

_MOST_SEGMENTS = 4096
_LONGEST = 1 << 40
"""Bytes of a segment at most: its sectors are counted in 32 bits."""


class BlkRanges(BlockDevice):
    """Offsets and lengths are bytes, whole blocks; what is longer than the device takes at once is split.

    All of these raise InvalidParam for a range that is not whole blocks or not on the disk (ENOSPC where it ends behind
    it), ReadOnlyDisk, Unsupported where the device offers no such request; nothing was sent then. When the device fails
    one (IoError), it is not known which parts of the ranges were done (VIRTIO 1.4, 5.2.6.1).
    """

    def discard(self, offset: int, length: int) -> None:
        """Tell the device that nobody needs these bytes any more. What they read as afterwards is undefined."""
        self.discard_ranges([(offset, length)])

    def discard_ranges(self, ranges: Iterable[Range]) -> None:
        """As `discard`, for many ranges in as few requests as the device takes."""
        self._send_ranges(RequestType.DISCARD, self.limits.discard, ranges)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = False) -> None:
        """Make these bytes zeros. With `unmap` the device may deallocate them, which it does or not."""
        self.write_zeroes_ranges([(offset, length)], unmap=unmap)

    def write_zeroes_ranges(self, ranges: Iterable[Range], *, unmap: bool = False) -> None:
        """As `write_zeroes`, for many ranges in as few requests as the device takes."""
        self._send_ranges(RequestType.WRITE_ZEROES, self.limits.write_zeroes, ranges, UNMAP if unmap else 0)

    def secure_erase(self, offset: int, length: int) -> None:
        """Make these bytes and every copy of them unreadable. On a zoned device this resets the zones.

        Also raises InvalidParam where offset or length are not multiples of `limits.secure_erase.alignment`; only the
        end of the disk need not be one.
        """
        self.secure_erase_ranges([(offset, length)])

    def secure_erase_ranges(self, ranges: Iterable[Range]) -> None:
        """As `secure_erase`, for many ranges in as few requests as the device takes."""
        self._send_ranges(RequestType.SECURE_ERASE, self.limits.secure_erase, ranges)

    # --- For whoever waits in a way of their own ----------------------------------------------------------------------

    def discard_requests(self, ranges: Iterable[Range]) -> Iterator[Callable[[], int]]:
        """As `discard_ranges`, for a caller that sends the requests: each submits one and returns its token, or raises
        QueueFull. What is wrong with the arguments is raised here, and nothing was sent then."""
        return map(self._starter(RequestType.DISCARD), self._format(RequestType.DISCARD, self.limits.discard, ranges))

    def secure_erase_requests(self, ranges: Iterable[Range]) -> Iterator[Callable[[], int]]:
        """As `discard_requests`, for `secure_erase_ranges`."""
        kind = RequestType.SECURE_ERASE
        return map(self._starter(kind), self._format(kind, self.limits.secure_erase, ranges))

    def write_zeroes_requests(self, ranges: Iterable[Range], *, unmap: bool = False) -> Iterator[Callable[[], int]]:
        """As `discard_requests`, for `write_zeroes_ranges`."""
        kind, flags = RequestType.WRITE_ZEROES, UNMAP if unmap else 0
        return map(self._starter(kind), self._format(kind, self.limits.write_zeroes, ranges, flags))

    # --- Private ------------------------------------------------------------------------------------------------------

    def _starter(self, kind: RequestType) -> Callable[[bytes], Callable[[], int]]:
        return lambda data: partial(self._submit, kind, 0, memoryview(data))

    def _send_ranges(
        self, kind: RequestType, limits: RangeLimits | None, ranges: Iterable[Range], flags: int = 0
    ) -> None:
        for data in self._format(kind, limits, ranges, flags):
            self._send_segments(kind, data)

    def _format(
        self, kind: RequestType, limits: RangeLimits | None, ranges: Iterable[Range], flags: int = 0
    ) -> Iterator[bytes]:
        """The segments of each request that is needed; the arguments are checked at once."""
        self.check_working()
        if limits is None:
            raise Unsupported(
                f"the device does not offer VIRTIO_BLK_F_{kind.name}, so it cannot {_VERBS[kind]} anything"
            )
        self._check_writable()
        wanted = list(ranges)
        for offset, length in wanted:
            self._check_bytes(offset, length)
            if kind is RequestType.SECURE_ERASE:
                self._check_erase(limits, offset, length)
        segments = (segment for offset, length in wanted for segment in _cut(offset, length, limits, flags))
        at_once = min(limits.segments, self.max_transfer() // SEGMENT_BYTES, _MOST_SEGMENTS)
        return iter(lambda: b"".join(segment.format() for segment in islice(segments, at_once)), b"")

    def _send_segments(self, kind: RequestType, data: bytes) -> None:
        try:
            self._run(kind, 0, memoryview(data))
        except IoError as error:
            error.add_note("it is not known which parts of the ranges were done")
            raise

    def _check_bytes(self, offset: int, length: int) -> None:
        block = self._block_size
        if offset < 0 or offset % block or length <= 0 or length % block:
            raise InvalidParam(f"{length} bytes at {offset} are not whole blocks of {block} bytes")
        self._check_range(offset // SECTOR_SIZE, length, errno.ENOSPC)

    def _check_erase(self, limits: RangeLimits, offset: int, length: int) -> None:
        end = offset + length
        if offset % limits.alignment or (end % limits.alignment and end != self.size()):
            raise InvalidParam(
                f"{length} bytes at {offset} cannot be erased: the device erases units of {limits.alignment} bytes",
                remedy="begin and end at multiples of that",
            )


_VERBS = {
    RequestType.DISCARD: "discard",
    RequestType.WRITE_ZEROES: "zero",
    RequestType.SECURE_ERASE: "erase",
}


def _cut(offset: int, length: int, limits: RangeLimits, flags: int) -> Iterator[Segment]:
    """The range as segments of at most `limits.most` bytes, cut at aligned places where there is one to cut at."""
    end = offset + length
    most = min(limits.most or length, _LONGEST)
    while offset < end:
        stop = min(offset + most, end)
        if stop < end and (aligned := stop // limits.alignment * limits.alignment) > offset:
            stop = aligned
        yield Segment(offset // SECTOR_SIZE, (stop - offset) // SECTOR_SIZE, flags)
        offset = stop
