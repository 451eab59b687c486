"""Runs a server as a program: until a signal tells it to end."""

from __future__ import annotations

import asyncio
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from hwloop.aio import AsyncDisk
from hwloop.device.block import BlockDevice
from hwloop.errors import InvalidParam
from hwloop.nbd.export import Export
from hwloop.nbd.protocol import LONGEST_NAME, PORT
from hwloop.nbd.server import NbdServer
from hwloop.socket_place import socket_place

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Place(ABC):
    """Where to listen."""

    def hold(self) -> AbstractContextManager[None]:
        """Have the place for the length of the block. Raises AlreadyUsed."""
        return nullcontext()

    @abstractmethod
    async def listen(self, server: NbdServer) -> str:
        """Begin; returns the address as clients take it. Raises SetupError."""


class UnixPlace(Place):
    """A socket in the file system, which is there as long as it is held."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def hold(self) -> AbstractContextManager[None]:
        return socket_place(self._path)

    async def listen(self, server: NbdServer) -> str:
        return await server.listen_unix(self._path)


class TcpPlace(Place):
    """A port; None is the usual one, 0 any that is free."""

    def __init__(self, address: str, port: int | None) -> None:
        self._address = address
        self._port = PORT if port is None else port

    async def listen(self, server: NbdServer) -> str:
        return await server.listen_tcp(self._address, self._port)


def serve(
    disk: BlockDevice,
    place: Place,
    *,
    ready: Callable[[str], object],
    complain: Callable[[str], object],
    name: str = "",
    description: str = "",
    readonly: bool = False,
) -> None:
    """Serve a disk until SIGINT, SIGTERM or SIGHUP, in the main thread; then flush and close it.

    `ready` is called with the address once it listens, `complain` with a sentence for each client that was hung up on.
    Raises SetupError, InvalidParam for a name that NBD cannot have, and what the device is lost by.
    """
    if len(name.encode()) > LONGEST_NAME:
        raise InvalidParam(f"a name of {len(name.encode())} bytes", remedy=f"give one of at most {LONGEST_NAME}")

    async def work() -> None:
        with _told_to_end() as ending:
            async with AsyncDisk(disk) as opened:
                export = Export(opened, name=name, description=description, readonly=readonly)
                async with NbdServer(export, complain=complain) as server:
                    ready(await place.listen(server))
                    await _first_of(ending.wait(), server.wait_failed())
                if not export.readonly:
                    await opened.flush()

    asyncio.run(work())


async def _first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Until one of them ends; raises what it raises."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task


@contextmanager
def _told_to_end() -> Iterator[asyncio.Event]:
    """An event that signals set, in place of what they did."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    earlier = {signum: signal.getsignal(signum) for signum in _ENDING}
    for signum in _ENDING:
        loop.add_signal_handler(signum, event.set)
    try:
        yield event
    finally:
        for signum, handler in earlier.items():
            loop.remove_signal_handler(signum)
            if handler is not None:
                signal.signal(signum, handler)
