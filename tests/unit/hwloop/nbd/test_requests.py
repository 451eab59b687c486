"""The requests of our NBD server, with a raw client: every command and flag, errors, many connections."""

from __future__ import annotations

import asyncio
import errno
import random

import pytest

from hwloop.device.blk_protocol import RequestType
from hwloop.device.fake_blk import DISCARDED
from hwloop.errors import DeviceLost
from hwloop.nbd.protocol import Command, CommandFlag
from tests.unit.hwloop.nbd.client import Client, run, served, until

SIZE = 1 << 20
EVERYTHING = "fake:1M?discard=on&write-zeroes=on&write-cache=writeback"


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("block", [512, 4096, 65536])
def test_bytes_at_any_offset_are_written_and_read(block: int, structured: bool) -> None:
    generator = random.Random(block)

    async def work() -> None:
        async with served(f"fake:1M?block-size={block}") as place:
            client = await place.client(structured=structured)
            model = bytearray(SIZE)
            for _ in range(60):
                offset = generator.randrange(SIZE)
                length = min(generator.choice([1, 511, 512, 4096, 5000, 100_000]), SIZE - offset)
                data = generator.randbytes(length)
                await client.write(offset, data)
                model[offset : offset + length] = data
                offset = generator.randrange(SIZE)
                length = generator.randrange(SIZE - offset + 1)
                assert await client.read(offset, length) == model[offset : offset + length]
            assert place.device.data == model
            assert await client.read(0, SIZE) == model

    run(work)


def test_parts_of_one_block_written_at_once_are_all_there() -> None:
    """By one client and by several."""

    async def work() -> None:
        async with served("fake:1M?block-size=4096") as place:
            clients = [await place.client() for _ in range(4)]
            for index in range(1024):
                clients[index % 4].put_request(Command.WRITE, index, 1, bytes([index % 251]))
            for client in clients:
                for _ in range(256):
                    _, error, _ = await client.reply({})
                    assert error == 0
            assert place.device.data[:1024] == bytes(index % 251 for index in range(1024))

    run(work)


def test_many_requests_are_answered_in_any_order() -> None:
    async def work() -> None:
        async with served() as place:
            client = await place.client(structured=True)
            await client.write(0, b"".join(index.to_bytes(2, "big") * 256 for index in range(2048)))
            wanted = {client.put_request(Command.READ, index * 512, 512): index for index in range(2048)}
            for _ in range(2048):
                cookie, error, data = await client.reply({})
                assert error == 0
                assert data == wanted.pop(cookie).to_bytes(2, "big") * 256
            assert wanted == {}

    run(work)


def test_a_flush_makes_the_writes_of_every_connection_durable() -> None:
    async def work() -> None:
        async with served(EVERYTHING) as place:
            one, other = await place.client(), await place.client()
            await one.write(0, b"x" * 512)
            assert place.device.durable[:512] == bytes(512)
            assert await other.ask(Command.FLUSH) == (0, b"")
            assert place.device.durable[:512] == b"x" * 512

    run(work)


@pytest.mark.parametrize(
    ("command", "data"), [(Command.WRITE, b"y" * 1000), (Command.TRIM, b""), (Command.WRITE_ZEROES, b"")]
)
def test_fua_makes_a_change_durable(command: Command, data: bytes) -> None:
    async def work() -> None:
        async with served(EVERYTHING) as place:
            client = await place.client()
            await client.write(0, b"x" * 4096)
            assert await client.ask(command, 100, 1000, data, CommandFlag.FUA) == (0, b"")
            assert place.device.requests[-1] == RequestType.FLUSH
            assert place.device.durable == place.device.data

    run(work)


def test_a_disk_that_has_no_cache_is_flushed_with_nothing_sent() -> None:
    async def work() -> None:
        async with served("fake:1M?flush=off") as place:
            client = await place.client()
            await client.write(0, b"x" * 512, CommandFlag.FUA)
            assert await client.ask(Command.FLUSH) == (0, b"")
            assert place.device.requests == [RequestType.OUT]

    run(work)


@pytest.mark.parametrize("target", [EVERYTHING, EVERYTHING + "&block-size=4096&write-zeroes-max=64k", "fake:1M"])
@pytest.mark.parametrize("flags", [0, CommandFlag.NO_HOLE])
def test_zeroes_are_written_at_any_offset(target: str, flags: int) -> None:
    generator = random.Random(3)

    async def work() -> None:
        async with served(target) as place:
            client = await place.client()
            model = bytearray(b"x" * SIZE)
            await client.write(0, bytes(model))
            for length in (1, 512, 513, 4096, 10_000, 300_000):
                offset = generator.randrange(SIZE - length)
                assert await client.ask(Command.WRITE_ZEROES, offset, length, flags=flags) == (0, b"")
                model[offset : offset + length] = bytes(length)
                assert place.device.data == model
            sent = RequestType.WRITE_ZEROES in place.device.requests
            assert sent == ("write-zeroes=on" in target)

    run(work)


def test_fast_zeroes_are_refused_where_they_would_be_written() -> None:
    async def work() -> None:
        async with served("fake:1M") as place:
            client = await place.client(structured=True)
            await client.write(0, b"x" * 512)
            error, _ = await client.ask(Command.WRITE_ZEROES, 0, 512, flags=CommandFlag.FAST_ZERO)
            assert error == errno.ENOTSUP
            assert await client.read(0, 512) == b"x" * 512
        async with served(EVERYTHING) as place:
            client = await place.client()
            assert await client.ask(Command.WRITE_ZEROES, 0, 512, flags=CommandFlag.FAST_ZERO) == (0, b"")

    run(work)


def test_trim_gives_up_whole_blocks_only() -> None:
    async def work() -> None:
        async with served(EVERYTHING + "&block-size=4096") as place:
            client = await place.client()
            await client.write(0, b"x" * 16384)
            assert await client.ask(Command.TRIM, 100, 8192) == (0, b"")
            gone = bytes([DISCARDED]) * 4096
            assert place.device.data[:16384] == b"x" * 4096 + gone + b"x" * 8192
            assert await client.ask(Command.TRIM, 100, 200) == (0, b"")
            assert place.device.data[:16384] == b"x" * 4096 + gone + b"x" * 8192

    run(work)


READ, WRITE, TRIM, ZERO, FLUSH = Command.READ, Command.WRITE, Command.TRIM, Command.WRITE_ZEROES, Command.FLUSH
RO = "fake:1M?read-only=on"
ERRORS = [
    ("fake:1M", READ, SIZE, 1, 0, errno.EINVAL),
    ("fake:1M", READ, SIZE - 1, 2, 0, errno.EINVAL),
    ("fake:1M", READ, (1 << 64) - 1, 1, 0, errno.EINVAL),
    ("fake:1M", READ, 0, (1 << 32) - 1, 0, errno.EINVAL),
    ("fake:1M", READ, 0, 512, CommandFlag.NO_HOLE, errno.EINVAL),
    ("fake:1M", READ, 0, 512, 1 << 15, errno.EINVAL),
    ("fake:1M", WRITE, SIZE, 1, 0, errno.ENOSPC),
    ("fake:1M", WRITE, SIZE - 1, 2, 0, errno.ENOSPC),
    ("fake:1M", WRITE, (1 << 64) - 1, 1000, 0, errno.ENOSPC),
    ("fake:1M", WRITE, 0, 512, CommandFlag.DF, errno.EINVAL),
    ("fake:1M", ZERO, SIZE - 1, 2, 0, errno.ENOSPC),
    ("fake:1M", ZERO, 0, (1 << 32) - 1, 0, errno.ENOSPC),
    ("fake:1M", TRIM, 0, 512, 0, errno.ENOTSUP),
    (EVERYTHING, TRIM, 0, SIZE + 1, 0, errno.ENOSPC),
    ("fake:1M", FLUSH, 1, 0, 0, errno.EINVAL),
    ("fake:1M", FLUSH, 0, 1, 0, errno.EINVAL),
    ("fake:1M", Command.CACHE, 0, 512, 0, errno.EINVAL),
    ("fake:1M", Command.BLOCK_STATUS, 0, 512, 0, errno.EINVAL),
    ("fake:1M", 99, 0, 512, 0, errno.EINVAL),
    (RO, WRITE, 0, 512, 0, errno.EPERM),
    (RO, ZERO, 0, 512, 0, errno.EPERM),
    (RO, TRIM, 0, 512, 0, errno.EPERM),
    ("fake:1M?io-error=1", READ, 0, 512, 0, errno.EIO),
    ("fake:1M?io-error=1", WRITE, 0, 512, 0, errno.EIO),
    ("fake:1M?io-error=1", FLUSH, 0, 0, 0, errno.EIO),
    ("fake:1M?unsupported=1", READ, 0, 512, 0, errno.ENOTSUP),
]


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize(("target", "command", "offset", "length", "flags", "error"), ERRORS)
def test_an_error_is_answered_and_the_connection_goes_on(
    target: str, command: int, offset: int, length: int, flags: int, error: int, structured: bool
) -> None:
    async def work() -> None:
        async with served(target) as place:
            client = await place.client(structured=structured)
            data = b"x" * length if command == WRITE else b""
            assert await client.ask(command, offset, length, data, flags) == (error, b"")
            assert await client.read(0, 512) == bytes(512)
            assert place.said == []

    run(work)


def test_df_is_for_structured_replies() -> None:
    async def work() -> None:
        async with served() as place:
            assert await (await place.client()).ask(READ, 0, 512, flags=CommandFlag.DF) == (errno.EINVAL, b"")
            assert await (await place.client(structured=True)).read(0, 512, CommandFlag.DF) == bytes(512)

    run(work)


def test_a_request_of_nothing_is_done() -> None:
    async def work() -> None:
        async with served(EVERYTHING) as place:
            for structured in (False, True):
                client = await place.client(structured=structured)
                for command in (READ, WRITE, TRIM, ZERO):
                    assert await client.ask(command, 513, 0) == (0, b"")
            assert place.device.requests == []

    run(work)


def test_goodbye_waits_for_what_was_asked() -> None:
    async def work() -> None:
        async with served() as place:
            client = await place.client()
            cookies = [client.put_request(WRITE, index * 512, 512, b"z" * 512) for index in range(100)]
            client.put_request(Command.DISC)
            assert {(await client.reply({}))[0] for _ in cookies} == set(cookies)
            assert await client.hung_up()
            assert place.device.data[: 100 * 512] == b"z" * 51200
            await until(lambda: place.server.served == 1)
            assert place.said == []

    run(work)


# --- Many clients, and those that go ----------------------------------------------------------------------------------


def test_many_clients_read_and_write_their_own() -> None:
    async def one(client: Client, base: int) -> None:
        for index in range(20):
            await client.write(base + index * 100, bytes([index]) * 100)
        assert await client.read(base, 2000) == b"".join(bytes([index]) * 100 for index in range(20))

    async def work() -> None:
        async with served("fake:1M?block-size=4096") as place:
            clients = [await place.client(structured=bool(number % 2)) for number in range(30)]
            await asyncio.gather(*(one(client, number * 2000) for number, client in enumerate(clients)))
            assert place.server.clients == 30

    run(work)


def test_one_client_too_many_is_turned_away() -> None:
    async def work() -> None:
        async with served(most_clients=2) as place:
            first, _ = await place.client(), await place.client()
            assert await (await place.connect()).hung_up()
            assert place.said == ["client 3 was turned away: there are 2 already"]
            first.leave()
            await until(lambda: place.server.clients == 1)
            assert await (await place.client()).read(0, 1) == b"\0"

    run(work)


def test_a_client_that_goes_in_the_middle_of_a_request_changes_nothing() -> None:
    async def work() -> None:
        async with served() as place:
            client = await place.client()
            client.put_request(WRITE, 0, 4096, b"x" * 1000)
            await until(lambda: place.server._budget.free < place.server._budget.total)
            client.leave()
            await until(lambda: place.server.served == 1)
            assert place.device.requests == []
            assert place.server._budget.free == place.server._budget.total

    run(work)


def test_a_client_that_goes_with_requests_outstanding_leaves_nothing_behind() -> None:
    async def work() -> None:
        async with served() as place:
            client = await place.client()
            for index in range(100):
                client.put_request(READ, 0, SIZE)
                client.put_request(WRITE, index, 1, b"x")
            await client.get(100)
            client.leave()
            await until(lambda: place.server.served == 1)
            assert place.server._budget.free == place.server._budget.total
            assert await (await place.client()).read(200, 1) == b"\0"

    run(work)


def test_a_client_that_sends_half_a_write_is_hung_up_on_and_others_are_served() -> None:
    async def work() -> None:
        async with served(patience=0.1) as place:
            client = await place.client()
            client.put_request(WRITE, 0, 4096, b"x" * 1000)
            assert await client.hung_up()
            assert (
                place.said
                == ["client 1 was hung up on: gave up after 0.10390625 s waiting for a client to send its bytes"]
                or "to send its bytes" in place.said[0]
            )
            assert await (await place.client()).read(0, 1) == b"\0"

    run(work)


def test_a_client_that_takes_no_answers_is_hung_up_on() -> None:
    async def work() -> None:
        async with served("fake:16M", patience=0.1) as place:
            client = await place.client()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(20):
                client.put_request(READ, 0, 1 << 20)
            await until(lambda: bool(place.said))
            assert "to take an answer" in place.said[0]
            await until(lambda: place.server.clients == 0)

    run(work)


def test_an_idle_client_may_take_its_time() -> None:
    async def work() -> None:
        async with served(patience=0.05) as place:
            client = await place.client()
            await asyncio.sleep(0.2)
            assert await client.read(0, 1) == b"\0"

    run(work)


def test_bytes_in_flight_are_bounded() -> None:
    async def work() -> None:
        async with served("fake:64M", most_bytes=1) as place:
            total = place.server._budget.total
            assert total == 32 << 20
            clients = [await place.client() for _ in range(3)]
            cookies = [client.put_request(READ, 0, 20 << 20) for client in clients]
            replies = [client.reply({cookie: 20 << 20}) for client, cookie in zip(clients, cookies, strict=True)]
            for cookie, error, data in await asyncio.gather(*replies):
                assert (cookie, error, len(data)) == (1, 0, 20 << 20)

    run(work)


def test_a_disk_that_is_lost_is_told_to_everybody() -> None:
    async def work() -> None:
        async with served("fake:1M") as place:
            client = await place.client(structured=True)
            place.device.faults.gone = True
            error, _ = await client.ask(READ, 0, 512)
            assert error == errno.EIO
            with pytest.raises(DeviceLost):
                await asyncio.wait_for(place.server.wait_failed(), 60)

    run(work)


def test_the_end_answers_what_was_asked() -> None:
    async def work() -> None:
        async with served() as place:
            client = await place.client()
            for index in range(50):
                client.put_request(WRITE, index * 512, 512, b"w" * 512)
            await client.reply({})
            await place.server.close()
            done = 1
            while True:
                try:
                    assert (await client.reply({}))[1] == 0
                except (asyncio.IncompleteReadError, ConnectionError):
                    break
                done += 1
            assert bytes(place.device.data[: done * 512]).count(b"w") == done * 512

    run(work)
