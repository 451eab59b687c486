"""`filter=record:FILE`: a trace with the bytes of every buffer, which `replay:FILE` can play back with no device.

A recording holds everything that was read and written: keep it like the data of the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from hwloop.errors import InvalidParam
from hwloop.filter.trace import TraceFilter


class RecordFilter(TraceFilter):
    """As `TraceFilter`, with data."""

    @classmethod
    def maker(cls, options: str, target: str) -> Callable[[], Self]:
        if not options:
            raise InvalidParam("filter record has no file", remedy="write filter=record:/tmp/blk.rec")
        return lambda: cls(options, target, data=True)
