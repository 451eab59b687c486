"""The first part of a connection: a client asks what there is and what can be done, and chooses a disk."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hwloop.nbd.export import Export
from hwloop.nbd.protocol import (
    FLAGS,
    GREETING,
    LONGEST_OPTION,
    OPTION,
    OPTION_MAGIC,
    ClientBroken,
    ExportFlag,
    HandshakeFlag,
    Info,
    InfoRequest,
    Option,
    OptionReply,
    option_reply,
    parse_name,
)
from hwloop.nbd.wire import Wire, expect

_MOST_OPTIONS = 1000
_LONGEST_SKIPPED = 1 << 20
_PADDING = bytes(124)
"""What follows the answer to NBD_OPT_EXPORT_NAME, unless both sides know better."""


@dataclass
class Agreement:
    """What the two sides have agreed on when the handshake is over."""

    structured: bool = False


class Handshake:
    """The server's side of a fixed newstyle handshake, over one disk. Raises ClientBroken, and as the wire."""

    def __init__(self, wire: Wire, export: Export) -> None:
        self._wire = wire
        self._export = export
        self._padding = _PADDING
        self._agreed = Agreement()
        self._chosen = False
        self._option = 0
        self._answers: dict[int, Callable[[bytes], Awaitable[bool]]] = {
            Option.EXPORT_NAME: self._export_name,
            Option.ABORT: self._abort,
            Option.LIST: self._list,
            Option.INFO: self._info,
            Option.GO: self._go,
            Option.STRUCTURED_REPLY: self._structured_reply,
        }

    async def run(self) -> Agreement | None:
        """None where the client wants no disk after all."""
        ours = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
        await self._wire.send(GREETING, OPTION_MAGIC, ours.to_bytes(2, "big"))
        (theirs,) = FLAGS.unpack(await self._wire.read(FLAGS.size))
        expect(not theirs & ~int(ours), f"the client has flags that there are not: {theirs:#x}")
        if theirs & HandshakeFlag.NO_ZEROES:
            self._padding = b""
        for _ in range(_MOST_OPTIONS):
            if not await self._next_option():
                return self._agreed if self._chosen else None
        raise ClientBroken(f"{_MOST_OPTIONS} options, and none of them chooses a disk")

    async def _next_option(self) -> bool:
        """Whether there is another one to come."""
        magic, self._option, length = OPTION.unpack(await self._wire.read(OPTION.size))
        expect(magic == OPTION_MAGIC, f"an option begins with {magic!r}")
        if length > LONGEST_OPTION:
            expect(length <= _LONGEST_SKIPPED, f"an option of {length} bytes")
            await self._wire.skip(length)
            return await self._answer(OptionReply.ERR_TOO_BIG, f"no option has {length} bytes".encode())
        data = await self._wire.read(length)
        answer = self._answers.get(self._option)
        if answer is None:
            return await self._answer(OptionReply.ERR_UNSUP, b"there is no such option here")
        return await answer(data)

    async def _answer(self, kind: OptionReply, data: bytes = b"") -> bool:
        await self._wire.send(option_reply(self._option, kind, data))
        return True

    # --- The options --------------------------------------------------------------------------------------------------

    async def _export_name(self, data: bytes) -> bool:
        """An old option: it can only be answered by a disk, or by hanging up."""
        name = parse_name(data)
        expect(self._knows(name), f"there is no disk called {name!r}")
        await self._wire.send(self._size_and_flags(), self._padding)
        self._chosen = True
        return False

    async def _abort(self, data: bytes) -> bool:
        await self._answer(OptionReply.ACK)
        return False

    async def _list(self, data: bytes) -> bool:
        if data:
            return await self._answer(OptionReply.ERR_INVALID, b"a list is asked for with no data")
        name = self._export.name.encode()
        await self._answer(OptionReply.SERVER, len(name).to_bytes(4, "big") + name)
        return await self._answer(OptionReply.ACK)

    async def _structured_reply(self, data: bytes) -> bool:
        if data:
            return await self._answer(OptionReply.ERR_INVALID, b"structured replies are asked for with no data")
        self._agreed.structured = True
        return await self._answer(OptionReply.ACK)

    async def _info(self, data: bytes) -> bool:
        await self._tell(data)
        return True

    async def _go(self, data: bytes) -> bool:
        self._chosen = await self._tell(data)
        return not self._chosen

    async def _tell(self, data: bytes) -> bool:
        """Tell of a disk; whether there is one of that name."""
        try:
            asked = InfoRequest.parse(data)
        except ClientBroken as error:
            await self._answer(OptionReply.ERR_INVALID, error.problem.encode())
            return False
        if not self._knows(asked.name):
            await self._answer(OptionReply.ERR_UNKNOWN, b"there is no disk of that name")
            return False
        await self._tell_one(Info.EXPORT, self._size_and_flags())
        await self._tell_one(Info.BLOCK_SIZE, struct.pack(">III", *self._export.block_sizes()))
        if Info.NAME in asked.wanted:
            await self._tell_one(Info.NAME, self._export.name.encode())
        if Info.DESCRIPTION in asked.wanted and self._export.description:
            await self._tell_one(Info.DESCRIPTION, self._export.description.encode())
        return await self._answer(OptionReply.ACK)

    async def _tell_one(self, kind: Info, data: bytes) -> None:
        await self._answer(OptionReply.INFO, kind.to_bytes(2, "big") + data)

    def _knows(self, name: str) -> bool:
        """The empty name is the disk that a server has by default."""
        return name in ("", self._export.name)

    def _size_and_flags(self) -> bytes:
        flags = self._export.flags()
        if self._agreed.structured:
            flags |= ExportFlag.SEND_DF
        return struct.pack(">QH", self._export.size(), flags)
