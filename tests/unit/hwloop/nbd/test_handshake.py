"""The handshake of our NBD server: every option, with good data and bad."""

from __future__ import annotations

import struct

import pytest

from hwloop.nbd.protocol import ExportFlag, Info, Option, OptionReply
from tests.unit.hwloop.nbd.client import BOTH, Client, info, run, served

DISK = {"name": "disk", "description": "a disk for tests"}
USUAL = (
    ExportFlag.HAS_FLAGS | ExportFlag.SEND_FLUSH | ExportFlag.CAN_MULTI_CONN
    | ExportFlag.SEND_FUA | ExportFlag.SEND_WRITE_ZEROES | ExportFlag.SEND_FAST_ZERO
)  # fmt: skip


@pytest.mark.parametrize(("flags", "padding"), [(1, 124), (BOTH, 0)])
def test_the_old_option_is_answered_by_the_disk(flags: int, padding: int) -> None:
    async def work() -> None:
        async with served() as place:
            client = await place.connect()
            await client.greet(flags)
            client.put_option(Option.EXPORT_NAME)
            assert struct.unpack(">QH", await client.get(10)) == (1 << 20, USUAL)
            assert await client.get(padding) == bytes(padding)
            await client.write(512, b"x" * 512)
            assert await client.read(0, 1024) == bytes(512) + b"x" * 512

    run(work)


def test_a_client_that_knows_no_fixed_newstyle_is_served() -> None:
    async def work() -> None:
        async with served() as place:
            client = await place.connect()
            await client.greet(0)
            client.put_option(Option.EXPORT_NAME)
            await client.get(10 + 124)
            assert await client.read(0, 1) == b"\0"

    run(work)


def test_info_and_go_tell_of_the_disk() -> None:
    async def work() -> None:
        async with served("fake:1M?block-size=4096&physical-block-size=16k", export=DISK) as place:
            client = await place.connect()
            await client.greet()
            expected = [
                (OptionReply.INFO, struct.pack(">HQH", Info.EXPORT, 1 << 20, USUAL)),
                (OptionReply.INFO, struct.pack(">HIII", Info.BLOCK_SIZE, 1, 16384, 32 << 20)),
                (OptionReply.INFO, struct.pack(">H", Info.NAME) + b"disk"),
                (OptionReply.INFO, struct.pack(">H", Info.DESCRIPTION) + b"a disk for tests"),
                (OptionReply.ACK, b""),
            ]
            assert await client.option(Option.INFO, info("disk", 1, 2, 3, 77)) == expected
            assert await client.option(Option.INFO, info("")) == [*expected[:2], expected[-1]]
            assert await client.option(Option.GO, info("disk", 1, 2)) == expected
            assert await client.read(0, 1) == b"\0"

    run(work)


@pytest.mark.parametrize(
    ("target", "export", "more", "less"),
    [
        ("fake:1M?discard=on", {}, ExportFlag.SEND_TRIM, ExportFlag(0)),
        ("fake:1M?read-only=on", {}, ExportFlag.READ_ONLY, USUAL & ~ExportFlag(0x107 & ~2)),
        ("fake:1M", {"readonly": True}, ExportFlag.READ_ONLY, USUAL & ~ExportFlag(0x107 & ~2)),
    ],
)
def test_the_flags_say_what_the_disk_can(target: str, export: dict[str, bool], more: int, less: int) -> None:
    async def work() -> None:
        async with served(target, export=export) as place:
            client = await place.client()
            assert client.flags == (USUAL | more) & ~less
            structured = await place.client(structured=True)
            assert structured.flags == client.flags | ExportFlag.SEND_DF

    run(work)


def test_the_list_has_the_disk() -> None:
    async def work() -> None:
        async with served(export=DISK) as place:
            client = await place.connect()
            await client.greet()
            assert await client.option(Option.LIST) == [(OptionReply.SERVER, b"\0\0\0\4disk"), (OptionReply.ACK, b"")]
            [(kind, _)] = await client.option(Option.LIST, b"x")
            assert kind == OptionReply.ERR_INVALID

    run(work)


def test_abort_is_answered_and_is_the_end() -> None:
    async def work() -> None:
        async with served() as place:
            client = await place.connect()
            await client.greet()
            assert await client.option(Option.ABORT) == [(OptionReply.ACK, b"")]
            assert await client.hung_up()
            assert place.said == []

    run(work)


ERRORS = [
    (Option.STARTTLS, b"", OptionReply.ERR_UNSUP),
    (4, b"", OptionReply.ERR_UNSUP),
    (9, info(), OptionReply.ERR_UNSUP),
    (10, info(), OptionReply.ERR_UNSUP),
    (11, b"", OptionReply.ERR_UNSUP),
    (0xFFFFFFFF, b"x" * 1000, OptionReply.ERR_UNSUP),
    (Option.STRUCTURED_REPLY, b"x", OptionReply.ERR_INVALID),
    (Option.INFO, b"", OptionReply.ERR_INVALID),
    (Option.GO, b"\0\0\0\1x", OptionReply.ERR_INVALID),
    (Option.GO, b"\xff\xff\xff\xffx\0\0", OptionReply.ERR_INVALID),
    (Option.GO, info("", 1) + b"x", OptionReply.ERR_INVALID),
    (Option.GO, b"\0\0\0\0\xff\xff", OptionReply.ERR_INVALID),
    (Option.GO, b"\0\0\0\2\xff\xfe\0\0", OptionReply.ERR_INVALID),
    (Option.GO, info("x" * 5000), OptionReply.ERR_INVALID),
    (Option.GO, info("another"), OptionReply.ERR_UNKNOWN),
    (Option.INFO, info("another"), OptionReply.ERR_UNKNOWN),
    (Option.GO, b"x" * 100000, OptionReply.ERR_TOO_BIG),
]


@pytest.mark.parametrize(("option", "data", "error"), ERRORS)
def test_an_option_that_is_refused_is_not_the_end(option: int, data: bytes, error: OptionReply) -> None:
    async def work() -> None:
        async with served(export=DISK) as place:
            client = await place.connect()
            await client.greet()
            [(kind, text)] = await client.option(option, data)
            assert kind == error
            assert text.isascii()
            assert (await client.option(Option.GO, info("disk")))[-1] == (OptionReply.ACK, b"")
            assert await client.read(0, 1) == b"\0"
            assert place.said == []

    run(work)


def _unknown_flags(client: Client) -> None:
    client.put(b"\0\0\0\7")


def _wrong_magic(client: Client) -> None:
    client.put(b"\0\0\0\3" + b"IHAVEOPS" + bytes(8))


def _endless_option(client: Client) -> None:
    client.put(b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\6" + b"\xff" * 4)


def _unknown_name(client: Client) -> None:
    client.put(b"\0\0\0\3")
    client.put_option(Option.EXPORT_NAME, b"another")


def _too_many_options(client: Client) -> None:
    client.put(b"\0\0\0\3")
    for _ in range(1000):
        client.put_option(Option.STARTTLS)


@pytest.mark.parametrize(
    ("speak", "words"),
    [
        (_unknown_flags, "flags that there are not: 0x7"),
        (_wrong_magic, "an option begins with b'IHAVEOPS'"),
        (_endless_option, "an option of 4294967295 bytes"),
        (_unknown_name, "there is no disk called 'another'"),
        (_too_many_options, "none of them chooses a disk"),
    ],
)
def test_nonsense_is_hung_up_on_and_told(speak, words: str) -> None:  # type: ignore[no-untyped-def]
    async def work() -> None:
        async with served() as place:
            client = await place.connect()
            await client.get(18)
            speak(client)
            while not await client.hung_up():
                pass
            assert len(place.said) == 1
            assert place.said[0].startswith("client 1 was hung up on: ")
            assert words in place.said[0]
            assert await (await place.client()).read(0, 1) == b"\0"

    run(work)


@pytest.mark.parametrize("said", [b"", b"\0\0\0\3", b"\0\0\0\3IHAVEOPT\0\0\0\7\0\0\0\6"])
def test_a_client_that_does_not_go_on_is_hung_up_on(said: bytes) -> None:
    async def work() -> None:
        async with served(patience=0.05) as place:
            client = await place.connect()
            client.put(said)
            while not await client.hung_up():
                pass
            assert "was hung up on" in place.said[0]

    run(work)
