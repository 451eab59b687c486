"""The bytes of one client, where everything that it can keep us waiting with has a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from hwloop.errors import DeadlineExpired
from hwloop.nbd.protocol import ClientBroken

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

LEAST_RATE = 1 << 20
"""Bytes a second that a client has to take or to give, besides `patience`."""
_PIECE = 64 << 10


class Wire:
    """`patience` is how many seconds a client may take for something short. Raises DeadlineExpired where it takes
    longer, and ConnectionError or asyncio.IncompleteReadError where it has gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float) -> None:
        self._reader = reader
        self._writer = writer
        self._patience = patience
        self._sending = asyncio.Lock()

    async def read(self, length: int) -> bytes:
        """So many bytes, for which the client is expected to be about to send them."""
        return await self._in_time("to send its bytes", length, self._reader.readexactly(length))

    async def read_when_it_comes(self, length: int) -> bytes:
        """So many bytes; a client may take as long as it likes before the first of them."""
        first = await self._reader.readexactly(1)
        return first + await self.read(length - 1)

    async def skip(self, length: int) -> None:
        """Take bytes that nobody wants."""
        while length > 0:
            length -= len(await self.read(min(length, _PIECE)))

    async def send(self, *parts: Buffer) -> None:
        """Send what belongs together, and wait until the client has taken most of it."""
        async with self._sending:
            length = sum(memoryview(part).nbytes for part in parts)
            for part in [b"".join(parts)] if length <= _PIECE else parts:
                self._writer.write(memoryview(part))
            await self._in_time("to take an answer", length, self._writer.drain())

    async def _in_time(self, what: str, length: int, work: Awaitable[T]) -> T:
        seconds = self._patience + length / LEAST_RATE
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError:
            self.hang_up()
            raise DeadlineExpired(f"a client {what}", seconds) from None

    def hang_up(self) -> None:
        """Drop the connection, and what was not sent. Idempotent."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """End the connection when all was sent. Idempotent."""
        self._writer.close()
        try:
            async with asyncio.timeout(self._patience):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self.hang_up()


def expect(condition: bool, text: str) -> None:
    """Raises ClientBroken."""
    if not condition:
        raise ClientBroken(text)
