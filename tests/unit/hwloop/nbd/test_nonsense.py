"""Whatever a client says, the server lives, nothing is left behind, and the next client is served."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwloop.nbd import protocol as nbd
from hwloop.nbd.budget import Budget
from hwloop.nbd.protocol import Command
from hwloop.nbd.ranges import AsyncRanges
from tests.unit.hwloop.nbd.client import run, served, until

_OPTION = st.builds(
    lambda option, length, data: nbd.OPTION.pack(b"IHAVEOPT", option, len(data) if length is None else length) + data,
    st.integers(0, 12),
    st.none() | st.integers(0, 1 << 32 - 1),
    st.binary(max_size=40),
)
_REQUEST = st.builds(
    lambda flags, command, offset, length, data: nbd.REQUEST.pack(0x25609513, flags, command, 7, offset, length) + data,
    st.integers(0, 31),
    st.integers(0, 8),
    st.integers(0, (1 << 64) - 1) | st.integers(0, 1 << 20),
    st.integers(0, (1 << 32) - 1) | st.integers(0, 8192),
    st.binary(max_size=600),
)


async def _say(words: list[bytes], *, chosen: bool) -> None:
    """Say it, hear what comes, go, and see that another client finds everything in order."""
    async with served("fake:1M?discard=on&write-zeroes=on&block-size=1024", patience=5) as place:
        client = await place.connect()
        if chosen:
            await client.go(structured=True)
        else:
            await client.get(18)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            client.put(b"".join(words))
            client.writer.write_eof()
            await asyncio.wait_for(client.reader.read(), 60)
        client.leave()
        await until(lambda: place.server.clients == 0)
        assert place.server._budget.free == place.server._budget.total
        other = await place.client()
        await other.write(3, b"still here")
        assert await other.read(3, 10) == b"still here"


@given(st.lists(st.binary(max_size=50) | _OPTION, max_size=6))
@settings(max_examples=40, deadline=None)
def test_nonsense_in_the_handshake(words: list[bytes]) -> None:
    run(lambda: _say([b"\0\0\0\3", *words], chosen=False))


@given(st.lists(_REQUEST | st.binary(max_size=60), max_size=8))
@settings(max_examples=60, deadline=None)
def test_nonsense_in_place_of_requests(words: list[bytes]) -> None:
    run(lambda: _say(words, chosen=True))


@pytest.mark.parametrize(
    ("magic", "command", "length", "words"),
    [
        (0x25609514, Command.READ, 512, "a request begins with 0x25609514, not 0x25609513"),
        (0x25609513, Command.WRITE, (32 << 20) + 1, "a WRITE of 33554433 bytes at 0; at most 33554432 bytes"),
    ],
)
def test_what_cannot_be_understood_is_hung_up_on(magic: int, command: int, length: int, words: str) -> None:
    async def work() -> None:
        async with served() as place:
            client = await place.client()
            client.put_request(command, 0, length, magic=magic)
            assert await client.hung_up()
            assert place.said == [f"client 1 was hung up on: {words}"]
            assert await (await place.client()).read(0, 1) == b"\0"

    run(work)


def test_a_budget_is_given_in_the_order_of_asking_and_comes_back() -> None:
    async def work() -> None:
        budget = Budget(10)
        await budget.take(6)
        loop = asyncio.get_running_loop()
        large, small = loop.create_task(budget.take(8)), loop.create_task(budget.take(1))
        await asyncio.sleep(0)
        assert budget.free == 4
        large.cancel()
        await asyncio.sleep(0)
        await asyncio.wait_for(small, 60)
        assert budget.free == 3
        waiting = loop.create_task(budget.take(10))
        await asyncio.sleep(0)
        budget.give(7)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
            budget.give(10)
        assert budget.free == 10

    run(work)


def test_ranges_that_overlap_wait_for_one_another_and_others_do_not() -> None:
    order: list[str] = []

    async def hold(ranges: AsyncRanges, name: str, start: int, end: int, go: asyncio.Event) -> None:
        async with ranges.hold(start, end):
            order.append(name)
            await go.wait()

    async def work() -> None:
        ranges, go = AsyncRanges(), asyncio.Event()
        work = [("a", 0, 10), ("b", 5, 15), ("c", 10, 12), ("d", 20, 30), ("e", 0, 5)]
        tasks = [asyncio.ensure_future(hold(ranges, *each, go)) for each in work]
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == ["a", "d"]
        tasks[1].cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == ["a", "d", "c"]
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == ["a", "d", "c", "e"]
        assert ranges._tickets == {}

    run(work)
