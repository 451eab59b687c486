"""The second part of a connection: requests, any number at a time, answered in the order in which they are done."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from contextlib import suppress

from hwloop.errors import HwloopError, InvalidParam, ReadOnlyDisk
from hwloop.nbd.budget import Budget
from hwloop.nbd.export import LONGEST_REQUEST, Export
from hwloop.nbd.handshake import Agreement
from hwloop.nbd.protocol import (
    CHANGING,
    FLAGS_OF,
    REQUEST,
    Command,
    CommandFlag,
    Request,
    data_chunk,
    error_chunk,
    error_number,
    simple_reply,
)
from hwloop.nbd.wire import Wire, expect

MOST_REQUESTS = 128
"""Requests of a client that are done at a time; it may send more, and they wait in its socket."""
Failed = Callable[[HwloopError], object]


class Connection:
    """Serves the requests of one client. `budget` is of bytes, for all clients; `failed` is told of each error of the
    disk. Requests that were sent are done also when the client has gone."""

    def __init__(self, wire: Wire, export: Export, agreed: Agreement, budget: Budget, failed: Failed) -> None:
        self._wire = wire
        self._export = export
        self._structured = agreed.structured
        self._budget = budget
        self._failed = failed
        self._places = asyncio.Semaphore(MOST_REQUESTS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: Exception | None = None

    async def run(self) -> None:
        """Until the client says goodbye. Raises ClientBroken, and as the wire; nothing is outstanding afterwards."""
        try:
            while await self._next_request():
                pass
        except Exception as error:
            self._broken = self._broken or error
        finally:
            while self._tasks:
                # Cancelled is what it is to end, which it does.
                with suppress(asyncio.CancelledError):
                    await asyncio.wait(self._tasks)
        if self._broken is not None:
            raise self._broken

    async def _next_request(self) -> bool:
        """Whether another one may come."""
        request = Request.parse(await self._wire.read_when_it_comes(REQUEST.size))
        if request.command == Command.DISC:
            return False
        amount = self._bytes_of(request)
        data = b""
        await self._places.acquire()
        try:
            await self._budget.take(amount)
            try:
                if request.command == Command.WRITE:
                    data = await self._wire.read(request.length)
            except BaseException:
                self._budget.give(amount)
                raise
        except BaseException:
            self._places.release()
            raise
        self._start(request, data, amount)
        return True

    def _bytes_of(self, request: Request) -> int:
        """How many bytes it needs while it is done. One that is too long to be read is refused later; one that brings
        too much is not read to its end, so that nothing after it can be understood."""
        if request.command == Command.WRITE:
            expect(request.length <= LONGEST_REQUEST, f"a {request}; at most {LONGEST_REQUEST} bytes")
            return request.length
        if request.command == Command.READ and request.length <= LONGEST_REQUEST:
            return request.length
        return 0

    def _start(self, request: Request, data: bytes, amount: int) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(request, data))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._places.release()
            self._budget.give(amount)
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, Exception), "others end the loop"
                self._broken = self._broken or error
                self._wire.hang_up()

        task.add_done_callback(ended)

    async def _serve(self, request: Request, data: bytes) -> None:
        try:
            self._check(request)
            answer = await self._do(request, data)
        except HwloopError as error:
            self._failed(error)
            await self._refuse(request, error_number(error), error.problem)
            return
        if request.command != Command.READ:
            await self._wire.send(simple_reply(request.cookie))
        elif self._structured:
            await self._wire.send(data_chunk(request.cookie, request.offset, answer.nbytes), answer)
        else:
            await self._wire.send(simple_reply(request.cookie), answer)

    async def _refuse(self, request: Request, number: int, text: str) -> None:
        if self._structured:
            await self._wire.send(error_chunk(request.cookie, number, text))
        else:
            await self._wire.send(simple_reply(request.cookie, number))

    def _check(self, request: Request) -> None:
        """What is wrong with a request that nobody needs to ask the disk about. Raises InvalidParam, ReadOnlyDisk."""
        flags = FLAGS_OF.get(request.command)  # type: ignore[call-overload]
        if flags is None:
            raise InvalidParam(f"there is no command {request.command} here")
        if request.flags & ~int(flags):
            raise InvalidParam(f"{request} cannot have the flags {request.flags:#x}")
        if request.flags & CommandFlag.DF and not self._structured:
            raise InvalidParam("DF is for structured replies")
        if request.command in CHANGING and self._export.readonly:
            raise ReadOnlyDisk("the disk is read-only; nothing was sent")
        if request.command == Command.READ and request.length > LONGEST_REQUEST:
            raise InvalidParam(f"a {request}; at most {LONGEST_REQUEST} bytes", errno=errno.EINVAL)
        if request.command == Command.FLUSH and (request.offset or request.length):
            raise InvalidParam("a flush has no range")

    async def _do(self, request: Request, data: bytes) -> memoryview:
        """What was read, or nothing."""
        export, offset, length = self._export, request.offset, request.length
        match request.command:
            case Command.READ:
                return await export.read(offset, length)
            case Command.WRITE:
                await export.write(offset, data)
            case Command.TRIM:
                await export.trim(offset, length)
            case Command.WRITE_ZEROES:
                unmap, fast = not request.flags & CommandFlag.NO_HOLE, bool(request.flags & CommandFlag.FAST_ZERO)
                await export.write_zeroes(offset, length, unmap=unmap, fast=fast)
            case Command.FLUSH:
                await export.flush()
        if request.command in CHANGING and request.flags & CommandFlag.FUA:
            await export.flush()
        return memoryview(b"")
