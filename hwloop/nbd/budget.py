"""How many bytes may be in the hands of a server at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """`total` bytes, which are handed out in the order of asking, each amount in one piece."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, amount: int) -> None:
        """Wait until so many bytes are free, at most `total`, and have them. Whoever has some has a deadline."""
        if not self._waiting and amount <= self.free:
            self.free -= amount
            return
        ready = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, ready))
        try:
            await ready
        except asyncio.CancelledError:
            # It may have been given in the same turn.
            self.give(0 if ready.cancelled() else amount)
            raise

    def give(self, amount: int) -> None:
        """Give bytes back, to whoever waits for them."""
        self.free += amount
        while self._waiting:
            wanted, ready = self._waiting[0]
            if not ready.cancelled():
                if wanted > self.free:
                    return
                self.free -= wanted
                ready.set_result(None)
            self._waiting.popleft()

    @asynccontextmanager
    async def hold(self, amount: int) -> AsyncIterator[None]:
        """Have so many bytes for the length of the block."""
        await self.take(amount)
        try:
            yield
        finally:
            self.give(amount)
