"""Ranges of a disk that a task is changing; other tasks wait who want the same bytes, the oldest first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class AsyncRanges:
    """As `RangeLock` does for threads, for the tasks of one event loop."""

    def __init__(self) -> None:
        self._tickets: dict[asyncio.Future[None], range] = {}

    @asynccontextmanager
    async def hold(self, start: int, end: int) -> AsyncIterator[None]:
        """Have `start` to `end` for the length of the block. Whoever holds one waits for the device, which has a
        deadline."""
        wanted = range(start, end)
        earlier = [ticket for ticket, held in self._tickets.items() if _overlap(wanted, held)]
        mine = asyncio.get_running_loop().create_future()
        self._tickets[mine] = wanted
        try:
            # The latest first: most often the others have ended before it.
            for ticket in reversed(earlier):
                if not ticket.done():
                    await asyncio.wait([ticket])
            yield
        finally:
            del self._tickets[mine]
            mine.set_result(None)


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop
