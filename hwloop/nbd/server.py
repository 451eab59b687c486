"""An NBD server for one disk, and any number of clients up to a bound.

    async with hwloop.aopen("qemu:disk.img") as disk:
        async with NbdServer(Export(disk)) as server:
            await server.listen_unix(Path("/tmp/disk.sock"))
            await server.wait_failed()

Nobody is asked who they are: whoever reaches the socket has the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from hwloop.errors import DeadlineExpired, DeviceClosed, DeviceLost, HwloopError, SetupError
from hwloop.nbd.budget import Budget
from hwloop.nbd.connection import Connection
from hwloop.nbd.export import LONGEST_REQUEST, Export
from hwloop.nbd.handshake import Agreement, Handshake
from hwloop.nbd.protocol import PORT, ClientBroken
from hwloop.nbd.wire import Wire

PATIENCE = 30.0
"""Seconds that a client may keep us waiting in the middle of something."""
MOST_CLIENTS = 64
MOST_BYTES = 2 * LONGEST_REQUEST
"""Bytes of all requests that are read or written at a time."""
_READ_AHEAD = 128 << 10
"""Bytes of a client's socket that are read before they are wanted, twice as many at most."""
_END_SECONDS = 5.0
_LOST = (DeviceLost, DeviceClosed, DeadlineExpired)


def _say_nothing(text: str) -> None:
    """Nobody listens."""


class NbdServer:
    """Serves `export` at every socket that it is told to listen at.

    `complain` gets a sentence for each client that broke the protocol or was too slow; its connection is closed then,
    and others go on. `served` counts the clients that have gone.
    """

    def __init__(
        self,
        export: Export,
        *,
        complain: Callable[[str], object] = _say_nothing,
        patience: float = PATIENCE,
        most_clients: int = MOST_CLIENTS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._export = export
        self._complain = complain
        self._patience = patience
        self._most_clients = most_clients
        self._budget = Budget(max(most_bytes, LONGEST_REQUEST))
        self._servers: list[asyncio.Server] = []
        self._clients: dict[asyncio.Task[None], Wire] = {}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ending = False
        self._count = 0
        self.served = 0

    # --- Where --------------------------------------------------------------------------------------------------------

    async def listen_unix(self, path: Path) -> str:
        """Listen at a socket, which its caller removes; returns the address as clients take it. Raises SetupError."""
        try:
            server = await asyncio.start_unix_server(self._connected, path, limit=_READ_AHEAD)
        except OSError as error:
            raise SetupError.refused(f"cannot listen at {path}", error, remedy="is the path too long?") from error
        self._servers.append(server)
        return f"nbd+unix:///{self._export.name}?socket={path}"

    async def listen_tcp(self, address: str = "127.0.0.1", port: int = PORT) -> str:
        """Listen at a port; 0 is any that is free. Returns the address as clients take it. Raises SetupError."""
        try:
            server = await asyncio.start_server(self._connected, address, port, limit=_READ_AHEAD)
        except OSError as error:
            raise SetupError(
                f"cannot listen at {address}, port {port}: {error.strerror}", errno=error.errno, remedy="choose a port"
            ) from error
        self._servers.append(server)
        host, bound = server.sockets[0].getsockname()[:2]
        return f"nbd://{f'[{host}]' if ':' in host else host}:{bound}/{self._export.name}"

    # --- How it ends --------------------------------------------------------------------------------------------------

    async def wait_failed(self) -> None:
        """Returns never: raises DeviceLost, DeviceClosed or DeadlineExpired when the disk is out of order."""
        await asyncio.shield(self._failure)

    @property
    def clients(self) -> int:
        """How many there are now."""
        return len(self._clients)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Listen no more, let what was asked for end, answer it, and hang up. Idempotent."""
        self._ending = True
        for server in self._servers:
            server.close()
        for task in self._clients:
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients, timeout=_END_SECONDS)
        for wire in self._clients.values():
            wire.hang_up()
        if self._clients:
            # What is with the disk then ends with the disk, whose requests have deadlines of their own.
            await asyncio.wait(self._clients, timeout=_END_SECONDS)
        if not self._failure.done():
            self._failure.cancel()
        elif not self._failure.cancelled():
            self._failure.exception()  # Nobody has to have waited for it.

    # --- A client -----------------------------------------------------------------------------------------------------

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine: of a task that asyncio makes itself, Python 3.11 prints a traceback when it is cancelled.
        self._count += 1
        name = f"client {self._count}"
        wire = Wire(reader, writer, self._patience)
        if self._ending or len(self._clients) >= self._most_clients:
            self._complain(f"{name} was turned away: there are {len(self._clients)} already")
            wire.hang_up()
            return
        task = asyncio.get_running_loop().create_task(self._serve(name, wire))
        self._clients[task] = wire
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._clients.pop(task).hang_up()
        self.served += 1
        if not task.cancelled():
            task.result()

    async def _serve(self, name: str, wire: Wire) -> None:
        try:
            # Cancelled is what the end of the server does, to those that are between two requests or wait for us.
            with suppress(asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
                await self._talk(wire)
            await wire.close()
        except (ClientBroken, DeadlineExpired) as error:
            self._complain(f"{name} was hung up on: {error.problem}")
        finally:
            wire.hang_up()

    async def _talk(self, wire: Wire) -> None:
        agreed = await self._shake_hands(wire)
        if agreed is not None:
            await Connection(wire, self._export, agreed, self._budget, self._disk_failed).run()

    async def _shake_hands(self, wire: Wire) -> Agreement | None:
        try:
            async with asyncio.timeout(self._patience):
                return await Handshake(wire, self._export).run()
        except TimeoutError:
            raise DeadlineExpired("a client to choose a disk", self._patience) from None

    def _disk_failed(self, error: HwloopError) -> None:
        if isinstance(error, _LOST) and not self._failure.done() and not self._ending:
            self._failure.set_exception(error)
