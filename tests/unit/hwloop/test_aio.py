"""A disk for asyncio, over a strict device in process that is polled, or that interrupts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

import hwloop
from hwloop.aio import AsyncDisk
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import DeadlineExpired, DeviceClosed, DeviceLost, InvalidParam, IoError, ReadOnlyDisk, Unsupported
from hwloop.hal.fake import FakeHal
from hwloop.transport.fake import FakeTransport

SIZE = 1 << 20
SECTORS = SIZE // 512
WAITS = ["poll", "irq", "adaptive"]
SECONDS = 30

pytestmark = pytest.mark.parametrize("wait", WAITS)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work(), 60)

    asyncio.run(bounded())


@asynccontextmanager
async def opened(wait: str, options: str = "", *, seconds: float = SECONDS) -> AsyncIterator[tuple[AsyncDisk, FakeBlk]]:
    """The disk, and the device behind it. After the end nothing is left in the memory of the device."""
    async with hwloop.aopen(f"fake:1M?wait={wait}{options}") as disk:
        driver = cast(VirtioBlk, disk.disk)
        driver._request_seconds = seconds
        device = cast(FakeTransport, driver.transport).device
        yield disk, cast(FakeBlk, device)
    assert cast(FakeHal, driver.hal).leaks() == []


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_what_is_written_is_read(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            await disk.write(1, b"a" * 1024)
            assert await disk.read(0, 2048) == bytes(512) + b"a" * 1024 + bytes(512)
            buffer = bytearray(1024)
            await disk.read_into(1, buffer)
            assert buffer == b"a" * 1024
            assert device.durable[512:1536] == bytes(1024)
            await disk.flush()
            assert device.durable[512:1536] == b"a" * 1024
            assert (disk.capacity(), disk.size(), disk.block_size(), disk.readonly()) == (SECTORS, SIZE, 512, False)
            assert await disk.device_id() == "FAKE0"

    run(work)


def test_a_disk_without_a_cache_has_nothing_to_flush(wait: str) -> None:
    async def work() -> None:
        async with opened(wait, "&flush=off") as (disk, _):
            await disk.flush()

    run(work)


def test_thousands_of_requests_are_outstanding_and_verified(wait: str) -> None:
    generator = random.Random(5)

    async def work() -> None:
        async with opened(wait) as (disk, _):
            contents = [generator.randbytes(512) for _ in range(SECTORS)]
            await asyncio.gather(*(disk.write(sector, data) for sector, data in enumerate(contents)))
            order = [generator.randrange(SECTORS) for _ in range(3000)]
            reads = [disk.read(sector, 512) for sector in order]
            assert disk.outstanding == 3000
            assert await asyncio.gather(*reads) == [contents[sector] for sector in order]
            assert disk.outstanding == 0

    run(work)


def test_requests_of_one_turn_are_sent_before_any_is_waited_for(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            device.hold = True
            reads = [disk.read(sector, 512) for sector in range(10)]
            await until(lambda: len(device.queues[0].held) == 10)
            device.hold = False
            device.release(backwards=True)
            assert await asyncio.gather(*reads) == [bytes(512)] * 10

    run(work)


def test_a_long_transfer_is_split_and_put_together(wait: str) -> None:
    data = random.Random(6).randbytes(SIZE)

    async def work() -> None:
        async with opened(wait, "&seg-max=1&size-max=4096") as (disk, _):
            assert disk.disk.max_transfer() == 4096
            await disk.write(0, data)
            assert await disk.read(0, SIZE) == data
            buffer = bytearray(SIZE)
            await disk.read_into(0, buffer)
            assert buffer == data

    run(work)


def test_other_tasks_run_while_the_device_takes_its_time(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            device.hold = True
            read = disk.read(0, 512)
            turns = 0
            while turns < 2000:
                await asyncio.sleep(0)
                turns += 1
            assert not read.done()
            device.hold = False
            device.release()
            assert await read == bytes(512)

    run(work)


# --- Cancelling -------------------------------------------------------------------------------------------------------


def test_a_request_that_is_cancelled_at_once_is_never_sent(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            disk.write(0, b"x" * 512).cancel()
            disk.read(0, 512).cancel()
            await asyncio.sleep(0)
            assert await disk.read(0, 512) == bytes(512)
            assert len(device.requests) == 1
            assert disk.outstanding == 0

    run(work)


def test_memory_of_a_cancelled_request_is_not_used_again_before_the_device_is_done(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            hal = cast(FakeHal, disk.disk.hal)
            buffer = bytearray(b"b" * 512)
            device.data[:512] = b"d" * 512
            await disk.read(0, 512)
            idle = len(hal.leaks())
            device.hold = True
            reading = disk.read_into(0, buffer)
            await until(lambda: len(device.queues[0].held) == 1)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert len(hal.leaks()) == idle + 1, "the device may still write it"
            other = disk.read(8, 512)
            await until(lambda: len(device.queues[0].held) == 2)
            first, second = ({address for address, _ in chain.writable} for chain in device.queues[0].held)
            assert not first & second
            device.hold = False
            device.release()
            assert await other == bytes(512)
            assert buffer == b"b" * 512
            await until(lambda: disk.outstanding == 0)
            assert len(hal.leaks()) == idle

    run(work)


def test_a_storm_of_cancellations_leaves_a_disk_that_works(wait: str) -> None:
    generator = random.Random(9)

    async def work() -> None:
        async with opened(wait) as (disk, device):
            for _ in range(20):
                device.hold = True
                reads = [disk.read(generator.randrange(SECTORS), 512) for _ in range(100)]
                for _ in range(generator.randrange(4)):
                    await asyncio.sleep(0)
                for read in reads:
                    if generator.random() < 0.5:
                        read.cancel()
                device.hold = False
                device.release()
                found = await asyncio.gather(*reads, return_exceptions=True)
                assert {type(one) for one in found} <= {bytes, asyncio.CancelledError}
            await until(lambda: disk.outstanding == 0)
            assert await disk.read(0, 512) == bytes(512)

    run(work)


# --- What goes wrong --------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused_at_once_and_nothing_is_sent(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            for call in (
                lambda: disk.read(SECTORS, 512),
                lambda: disk.read(0, 100),
                lambda: disk.write(SECTORS - 1, bytes(1024)),
                lambda: disk.read_into(0, bytes(512)),
            ):
                with pytest.raises(InvalidParam):
                    call()
            assert device.requests == []
        async with opened(wait, "&read-only=on") as (disk, _):
            with pytest.raises(ReadOnlyDisk):
                disk.write(0, bytes(512))

    run(work)


def test_a_request_that_fails_fails_alone(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            device.blk_faults.io_error = 1
            found = await asyncio.gather(*(disk.read(sector, 512) for sector in range(5)), return_exceptions=True)
            assert [type(one) for one in found] == [IoError, *[bytes] * 4]

    run(work)


def test_a_device_that_does_not_answer_is_given_up_and_everything_fails(wait: str) -> None:
    async def work() -> None:
        async with opened(wait, seconds=0.2) as (disk, device):
            device.faults.drop = True
            found = await asyncio.gather(*(disk.read(sector, 512) for sector in range(100)), return_exceptions=True)
            assert {type(one) for one in found} <= {DeviceLost, DeadlineExpired}
            assert disk.outstanding == 0
            with pytest.raises(DeviceLost):
                await disk.read(0, 512)

    run(work)


def test_a_device_that_is_gone_is_said_to_be_gone(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            device.hold = True
            reads = [disk.read(0, 512) for _ in range(3)]
            await until(lambda: len(device.queues[0].held) == 3)
            device.faults.gone = True
            found = await asyncio.gather(*reads, return_exceptions=True)
            assert [type(one) for one in found] == [DeviceLost] * 3

    run(work)


def test_what_no_driver_should_raise_fails_what_is_outstanding_and_reaches_the_loop(
    wait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        said: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context["exception"]))
        async with opened(wait) as (disk, device):
            device.hold = True
            reads = [disk.read(sector, 512) for sector in range(200)]
            await until(lambda: bool(device.queues[0].held))
            with monkeypatch.context() as patched:
                patched.setattr(disk.disk, "poll", lambda: 1 // 0)
                found = await asyncio.gather(*reads, return_exceptions=True)
            assert {type(one) for one in found} == {ZeroDivisionError}
            assert type(said[0]) is ZeroDivisionError
            device.hold = False
            device.release()
            assert await disk.read(0, 512) == bytes(512)

    run(work)


def test_a_request_that_cannot_be_made_fails_alone(wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, _):
            good, bad = disk.read(0, 512), disk.read(1, 512)
            submit = disk.disk.submit_read
            monkeypatch.setattr(disk.disk, "submit_read", lambda sector, length: submit(sector, length // (1 - sector)))
            found = await asyncio.gather(good, bad, return_exceptions=True)
            assert [type(one) for one in found] == [bytes, ZeroDivisionError]

    run(work)


def test_a_lost_interrupt_or_notification_costs_no_request(wait: str) -> None:
    async def work() -> None:
        async with opened(wait, seconds=2) as (disk, device):
            hal = cast(FakeHal, disk.disk.hal)
            assert hal.interrupts is not None
            hal.interrupts.lose = 1
            assert await disk.read(0, 512) == bytes(512)
            device.faults.lose_notifications = 1
            assert await disk.read(0, 512) == bytes(512)

    run(work)


def test_what_is_outstanding_when_the_disk_is_closed_fails_and_its_memory_is_freed(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            device.hold = True
            reads = [disk.read(sector, 512) for sector in range(200)]
            await until(lambda: bool(device.queues[0].held))
            await disk.close()
            await disk.close()
            found = await asyncio.gather(*reads, return_exceptions=True)
            assert {type(one) for one in found} == {DeviceClosed}
            with pytest.raises(DeviceClosed):
                disk.read(0, 512)

    run(work)


# --- Opening ----------------------------------------------------------------------------------------------------------


def test_a_disk_is_opened_by_awaiting_too(wait: str) -> None:
    async def work() -> None:
        disk = await hwloop.aopen(f"fake:1M?wait={wait}")
        assert await disk.read(0, 512) == bytes(512)
        await disk.close()

    run(work)


def test_what_cannot_be_opened_raises_as_always(wait: str) -> None:
    async def work() -> None:
        with pytest.raises(InvalidParam):
            async with hwloop.aopen(f"fake:1M?wait={wait}&no-such=1"):
                pass

    run(work)


def test_opening_that_is_cancelled_leaves_nothing_open(wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Slow:
        def close(self) -> None:
            closed.append(wait)

    async def work() -> None:
        entered, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(target: object) -> Slow:
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(30)
            return Slow()

        monkeypatch.setattr("hwloop.session.open", slow)
        opening = asyncio.ensure_future(hwloop.aopen("fake:1M")._open())
        await entered.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        go_on.set()
        await until(lambda: closed == [wait])

    run(work)


def test_a_device_that_is_no_disk_is_closed_again(wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    class Rng:
        def device_name(self) -> str:
            return "virtio-rng"

        def close(self) -> None:
            closed.append(1)

    async def work() -> None:
        monkeypatch.setattr("hwloop.session.open", lambda target: Rng())
        with pytest.raises(Unsupported, match=r"virtio-rng is no disk; use hwloop\.open"):
            await hwloop.aopen("x")
        assert closed == [1]

    run(work)


def test_a_disk_that_grows_while_the_loop_runs_is_known_to_have_grown(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            device.data += bytes(512)
            device.set_config(0, 8, SECTORS + 1)
            assert await disk.read(SECTORS, 512) == bytes(512)
            assert disk.capacity() == SECTORS + 1

    run(work)
