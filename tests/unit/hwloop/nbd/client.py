"""A raw NBD client, which says what it is told to, and a server for it to talk to."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import hwloop
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.nbd import protocol as nbd
from hwloop.nbd.export import Export
from hwloop.nbd.protocol import Command, HandshakeFlag, Option, OptionReply
from hwloop.nbd.server import NbdServer
from hwloop.transport.fake import FakeTransport

BOTH = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
SECONDS = 60


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work(), 2 * SECONDS)

    asyncio.run(bounded())


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.structured = False
        self.size = self.flags = 0
        self.cookies = 0

    # --- Bytes --------------------------------------------------------------------------------------------------------

    async def get(self, length: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(length), SECONDS)

    def put(self, data: bytes) -> None:
        self.writer.write(data)

    async def hung_up(self) -> bool:
        """Waits for the server to hang up."""
        try:
            return await asyncio.wait_for(self.reader.read(1 << 20), SECONDS) == b""
        except ConnectionError:
            return True

    def leave(self) -> None:
        self.writer.transport.abort()

    # --- The handshake ------------------------------------------------------------------------------------------------

    async def greet(self, flags: int = BOTH) -> None:
        assert await self.get(18) == b"NBDMAGICIHAVEOPT" + b"\0\3"
        self.put(flags.to_bytes(4, "big"))

    def put_option(self, option: int, data: bytes = b"") -> None:
        self.put(nbd.OPTION.pack(b"IHAVEOPT", option, len(data)) + data)

    async def answer(self, option: int) -> tuple[int, bytes]:
        magic, same, kind, length = nbd.OPTION_REPLY.unpack(await self.get(nbd.OPTION_REPLY.size))
        assert (magic, same) == (0x3E889045565A9, option)
        return kind, await self.get(length)

    async def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """All answers, up to the one that is the last."""
        self.put_option(option, data)
        answers = [await self.answer(option)]
        while answers[-1][0] in (OptionReply.SERVER, OptionReply.INFO):
            answers.append(await self.answer(option))
        return answers

    async def go(self, *, structured: bool = False, name: str = "") -> None:
        await self.greet()
        if structured:
            assert await self.option(Option.STRUCTURED_REPLY) == [(OptionReply.ACK, b"")]
            self.structured = True
        answers = await self.option(Option.GO, info(name))
        assert answers[-1] == (OptionReply.ACK, b"")
        self.size, self.flags = struct.unpack(">QH", answers[0][1][2:])

    # --- Requests -----------------------------------------------------------------------------------------------------

    def put_request(
        self, command: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0, magic: int = 0x25609513
    ) -> int:
        self.cookies += 1
        self.put(nbd.REQUEST.pack(magic, flags, command, self.cookies, offset, length) + data)
        return self.cookies

    async def reply(self, lengths: dict[int, int]) -> tuple[int, int, bytes]:
        """Cookie, error, and the bytes that were read; `lengths` says for which cookies how many are to come."""
        magic = int.from_bytes(await self.get(4), "big")
        if magic == nbd.SIMPLE_REPLY_MAGIC:
            error, cookie = struct.unpack(">IQ", await self.get(12))
            return cookie, error, b"" if error else await self.get(lengths.get(cookie, 0))
        assert magic == nbd.STRUCTURED_REPLY_MAGIC
        assert self.structured
        flags, kind, cookie, length = struct.unpack(">HHQI", await self.get(16))
        data = await self.get(length)
        assert flags == 1
        if kind == 1:
            return cookie, 0, data[8:]
        assert kind == 0x8001
        error, said = struct.unpack(">IH", data[:6])
        assert len(data) == 6 + said
        return cookie, error, b""

    async def ask(
        self, command: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0
    ) -> tuple[int, bytes]:
        """The error and the bytes of a request that is the only one."""
        cookie = self.put_request(command, offset, length, data, flags)
        same, error, read = await self.reply({cookie: length if command == Command.READ else 0})
        assert same == cookie
        return error, read

    async def read(self, offset: int, length: int, flags: int = 0) -> bytes:
        error, data = await self.ask(Command.READ, offset, length, flags=flags)
        assert error == 0
        return data

    async def write(self, offset: int, data: bytes, flags: int = 0) -> None:
        assert await self.ask(Command.WRITE, offset, len(data), data, flags) == (0, b"")


class Served:
    """A server, the device behind it, and the sentences that it said of clients."""

    def __init__(self, server: NbdServer, disk: VirtioBlk, path: Path, said: list[str]) -> None:
        self.server = server
        self.disk = disk
        self.device = cast(FakeBlk, cast(FakeTransport, disk.transport).device)
        self.path = path
        self.said = said

    async def connect(self) -> Client:
        return Client(*await asyncio.open_unix_connection(self.path))

    async def client(self, **options: Any) -> Client:
        client = await self.connect()
        await client.go(**options)
        return client


@asynccontextmanager
async def served(
    target: str = "fake:1M", *, export: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Served]:
    said: list[str] = []
    with TemporaryDirectory(prefix="hwloop-nbd-") as folder:
        path = Path(folder) / "s"
        async with hwloop.aopen(target) as disk:
            async with NbdServer(Export(disk, **(export or {})), complain=said.append, **options) as server:
                await server.listen_unix(path)
                yield Served(server, cast(VirtioBlk, disk.disk), path, said)
                assert server._budget.free == server._budget.total or server.clients
            assert server._budget.free == server._budget.total
            assert disk.outstanding == 0


def info(name: str = "", *wanted: int) -> bytes:
    """The data of NBD_OPT_INFO and NBD_OPT_GO."""
    text = name.encode()
    return len(text).to_bytes(4, "big") + text + struct.pack(f">H{len(wanted)}H", len(wanted), *wanted)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.001)
