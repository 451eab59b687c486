"""The queues of a disk for asyncio, over a strict device in process that is polled, or that interrupts."""

from __future__ import annotations

import asyncio
import gc
import random
from array import array
from typing import Any, cast

import pytest

from cython_ring import DmaBuffer, RingUsageError
from hwloop.aio import AsyncDisk
from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_queue import Batch
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import DeadlineExpired, DeviceClosed, DeviceLost, HwloopError, InvalidParam, IoError, ReadOnlyDisk
from tests.unit.hwloop.test_aio import SECTORS, WAITS, opened, run, until

pytestmark = pytest.mark.parametrize("wait", WAITS)


def memory(disk: AsyncDisk, size: int) -> DmaBuffer:
    return cast(VirtioBlk, disk.disk).alloc(size)


async def told(awaitable: Any) -> BaseException | None:
    """What awaiting it raises, or None."""
    try:
        await awaitable
    except BaseException as error:
        return error
    return None


def count_served(device: FakeBlk) -> list[object]:
    """What the device does from now on."""
    served: list[object] = []
    usual = device.serve

    def serve(*arguments: Any) -> Any:
        served.append(arguments)
        return usual(*arguments)

    device.serve = serve  # type: ignore[method-assign]
    return served


# --- Requests ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_in_place(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 8192)
            memoryview(buffer)[:1024] = b"w" * 1024
            assert await queue.write_from(3, buffer, 0, 1024) is None
            assert device.data[1536:2560] == b"w" * 1024
            await queue.read_into(3, buffer, 4096, 1024)
            assert bytes(buffer)[4096:5120] == b"w" * 1024
            assert (queue.index, queue.outstanding) == (0, 0)

    run(work)


def test_thousands_are_outstanding_and_each_gets_its_own(wait: str) -> None:
    generator = random.Random(5)

    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 512 * 3000)
            device.data[:] = generator.randbytes(SECTORS * 512)
            order = [generator.randrange(SECTORS) for _ in range(3000)]
            replies = [queue.read_into(sector, buffer, 512 * at, 512) for at, sector in enumerate(order)]
            assert queue.outstanding == 3000
            await asyncio.gather(*replies)
            assert bytes(buffer) == b"".join(device.data[512 * sector : 512 * sector + 512] for sector in order)
            assert queue.outstanding == 0

    run(work)


def test_tasks_that_go_on_and_on_all_come_to_an_end(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, _):
            queue, buffer = disk.queues[0], memory(disk, 512)
            done: list[int] = []

            async def task(number: int) -> None:
                for turn in range(20):
                    await queue.read_into((number + turn) % SECTORS, buffer)
                done.append(number)

            await asyncio.gather(*(task(number) for number in range(200)))
            assert sorted(done) == list(range(200))

    run(work)


def test_every_queue_works_beside_the_others(wait: str) -> None:
    async def work() -> None:
        async with opened(wait, "&queues=3") as (disk, _):
            assert [queue.index for queue in disk.queues] == [0, 1, 2]
            buffer = memory(disk, 3 * 512)
            for at, queue in enumerate(disk.queues):
                memoryview(buffer)[512 * at : 512 * at + 512] = bytes([at + 1]) * 512
                await queue.write_from(at, buffer, 512 * at, 512)
            await asyncio.gather(*(queue.read_into(0, buffer, 512 * at, 512) for at, queue in enumerate(disk.queues)))
            assert bytes(buffer) == b"\1" * 1536

    run(work)


def test_a_batch_is_awaited_as_a_whole_and_used_again(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            device.data[:] = random.Random(1).randbytes(SECTORS * 512)
            queue, buffer, batch = disk.queues[0], memory(disk, 512 * 600), Batch(600)
            batch.reads(array("Q", range(600)), buffer, 512)
            first = queue.submit(batch)
            batch.clear()
            batch.read(700, buffer, 0, 512)
            await first
            assert bytes(buffer) == device.data[: 512 * 600]
            await queue.submit(batch)
            assert bytes(buffer)[:512] == device.data[700 * 512 : 701 * 512]
            batch.clear()
            await queue.submit(batch)
            assert queue.outstanding == 0

    run(work)


def test_what_is_longer_than_a_segment_is_split(wait: str) -> None:
    async def work() -> None:
        async with opened(wait, "&size-max=1024") as (disk, device):
            device.data[:] = random.Random(2).randbytes(SECTORS * 512)
            queue, buffer = disk.queues[0], memory(disk, 10 * 1024)
            await queue.read_into(7, buffer)
            assert bytes(buffer) == device.data[7 * 512 : 7 * 512 + 10 * 1024]

    run(work)


# --- What goes wrong --------------------------------------------------------------------------------------------------


def test_wrong_arguments_raise_at_once_and_send_nothing(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 4096)
            served = count_served(device)
            for sector, offset, length in (
                (SECTORS, 0, 512),
                (0, 0, 100),
                (0, 4000, 512),
                (0, 0, 0),
                (1 << 63, 0, 512),
            ):
                with pytest.raises(InvalidParam):
                    queue.read_into(sector, buffer, offset, length)
            batch = Batch(2)
            batch.read(0, buffer, 0, 512)
            batch.read(SECTORS, buffer, 0, 512)
            with pytest.raises(InvalidParam, match="request 1 of the batch"):
                queue.submit(batch)
            closed = memory(disk, 512)
            closed.close()
            with pytest.raises(InvalidParam, match="closed"):
                queue.read_into(0, closed)
            await asyncio.sleep(0)
            assert (queue.outstanding, served) == (0, [])

    run(work)


def test_a_read_only_disk_is_not_written(wait: str) -> None:
    async def work() -> None:
        async with opened(wait, "&read-only=on") as (disk, _):
            buffer, batch = memory(disk, 512), Batch(1)
            with pytest.raises(ReadOnlyDisk):
                disk.queues[0].write_from(0, buffer)
            batch.write(0, buffer)
            with pytest.raises(ReadOnlyDisk):
                disk.queues[0].submit(batch)

    run(work)


def test_an_error_of_one_request_is_that_ones_alone(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 4096)
            device.blk_faults.io_error = 1
            outcomes = await asyncio.gather(
                *(queue.read_into(sector, buffer, 0, 512) for sector in range(10)), return_exceptions=True
            )
            assert [at for at, outcome in enumerate(outcomes) if outcome is not None] == [0]
            assert isinstance(outcomes[0], IoError)
            assert (outcomes[0].sector, outcomes[0].queue) == (0, 0)
            batch = Batch(10)
            batch.reads(array("Q", range(5, 15)), buffer, 512, 0, 0)
            device.blk_faults.io_error = 2
            error = await told(queue.submit(batch))
            assert isinstance(error, IoError)
            assert error.sector == 5, "the first"
            await queue.submit(batch)

    run(work)


def test_a_failure_that_nobody_asks_about_is_told_to_the_loop(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 512)
            heard: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
            device.blk_faults.io_error = 1
            queue.read_into(5, buffer)
            await until(lambda: not queue.outstanding)
            gc.collect()
            assert [type(context["exception"]) for context in heard] == [IoError]

    run(work)


def test_a_device_that_does_not_answer_is_given_up_and_everybody_is_told(wait: str) -> None:
    async def work() -> None:
        async with opened(wait, seconds=0.2) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 4096)
            device.hold = True
            replies = [queue.read_into(sector, buffer, 0, 512) for sector in range(3)]
            errors = [await told(reply) for reply in replies]
            assert {type(error) for error in errors} == {DeadlineExpired}
            with pytest.raises(DeadlineExpired):
                queue.read_into(0, buffer)
            assert isinstance(await told(disk.read(0, 512)), DeviceLost)

    run(work)


def test_a_device_that_is_gone_fails_what_is_outstanding(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 512)
            device.hold = True
            reply = queue.read_into(0, buffer)
            await asyncio.sleep(0)
            device.faults.gone = True
            assert isinstance(await told(reply), HwloopError)
            device.faults.gone = False

    run(work)


def test_the_end_of_the_disk_fails_what_is_outstanding(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 512)
            device.hold = True
            replies = [queue.read_into(0, buffer) for _ in range(700)]
            await asyncio.sleep(0)
            await disk.close()
            assert {type(await told(reply)) for reply in replies} == {DeviceClosed}
            assert buffer.closed
            with pytest.raises(DeviceClosed):
                queue.read_into(0, buffer)

    run(work)


# --- Cancelling -------------------------------------------------------------------------------------------------------


def test_what_is_cancelled_before_it_is_sent_is_never_sent(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 1024)
            served = count_served(device)
            first, second = queue.read_into(0, buffer, 0, 512), queue.read_into(1, buffer, 512, 512)
            assert first.cancel()
            assert not first.cancel()
            await second
            assert isinstance(await told(first), asyncio.CancelledError)
            assert (len(served), queue.outstanding) == (1, 0)

    run(work)


def test_the_buffer_of_a_cancelled_request_is_the_devices_until_it_answers(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 512)
            device.hold = True

            async def read() -> None:
                await queue.read_into(0, buffer)

            task = asyncio.create_task(read())
            await until(lambda: queue.queue.outstanding == 1)
            task.cancel()
            assert isinstance(await told(task), asyncio.CancelledError)
            with pytest.raises(RingUsageError, match="in flight"):
                buffer.close()
            assert queue.outstanding == 1
            device.hold = False
            device.release()
            await until(lambda: not queue.outstanding)
            buffer.close()

    run(work)


def test_a_time_limit_is_one(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 512)
            device.hold = True
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(queue.read_into(0, buffer), 0.05)
            device.hold = False
            device.release()
            await asyncio.wait_for(queue.read_into(0, buffer), 30)

    run(work)


def test_a_task_may_cancel_others_when_it_goes_on(wait: str) -> None:
    """It runs in the middle of the answers of one look."""

    async def work() -> None:
        async with opened(wait) as (disk, _):
            queue, buffer = disk.queues[0], memory(disk, 512)
            others: list[asyncio.Future[None]] = []

            async def first() -> None:
                await queue.read_into(0, buffer)
                for other in others:
                    other.cancel()

            task = asyncio.create_task(first())
            await asyncio.sleep(0)
            others += [queue.read_into(1, buffer) for _ in range(5)]
            await task
            errors = [await told(other) for other in others]
            assert {type(error) for error in errors} <= {asyncio.CancelledError, type(None)}
            await until(lambda: not queue.outstanding)

    run(work)


def test_a_task_may_close_the_disk_when_it_goes_on(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, _):
            queue, buffer = disk.queues[0], memory(disk, 512)

            async def first() -> None:
                await queue.read_into(0, buffer)
                await disk.close()

            task = asyncio.create_task(first())
            await asyncio.sleep(0)
            others = [queue.read_into(1, buffer) for _ in range(300)]
            await task
            errors = [await told(other) for other in others]
            assert {type(error) for error in errors} <= {DeviceClosed, type(None)}

    run(work)


# --- A future of the loop ---------------------------------------------------------------------------------------------


def test_it_is_a_future(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, _):
            queue, buffer = disk.queues[0], memory(disk, 512)
            reply = queue.read_into(0, buffer)
            assert asyncio.isfuture(reply)
            assert reply.get_loop() is asyncio.get_running_loop()
            with pytest.raises(asyncio.InvalidStateError):
                reply.result()
            called: list[object] = []
            removed: list[object] = []
            reply.add_done_callback(called.append)
            reply.add_done_callback(called.append)
            reply.add_done_callback(removed.append)
            assert reply.remove_done_callback(removed.append) == 1
            assert (reply.done(), reply.cancelled()) == (False, False)
            done, pending = await asyncio.wait({reply})
            assert (done, pending) == ({reply}, set())
            reply.add_done_callback(called.append)
            await asyncio.sleep(0)
            assert called == [reply, reply, reply]
            assert removed == []
            assert (reply.result(), reply.exception(), reply.done()) == (None, None, True)
            assert await reply is None, "as often as wanted"

    run(work)


def test_two_tasks_may_await_one(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 512)
            device.blk_faults.io_error = 1
            reply = queue.read_into(0, buffer)
            outcomes = await asyncio.gather(told(reply), told(reply))
            assert [type(outcome) for outcome in outcomes] == [IoError, IoError]

    run(work)


# --- Beside the disk's own requests -----------------------------------------------------------------------------------


def test_the_first_queue_and_the_disk_wait_for_one_another(wait: str) -> None:
    async def work() -> None:
        async with opened(wait) as (disk, device):
            queue, buffer = disk.queues[0], memory(disk, 512)
            memoryview(buffer)[:] = b"q" * 512

            async def mixed(number: int) -> None:
                for turn in range(5):
                    sector = 20 * number + turn
                    if number % 2:
                        await disk.write(sector, b"d" * 512)
                    else:
                        await queue.write_from(sector, buffer)
                    if turn == 3:
                        await disk.flush()

            await asyncio.gather(*(mixed(number) for number in range(20)))
            for number in range(20):
                expected = (b"d" if number % 2 else b"q") * 512 * 5
                assert device.data[20 * number * 512 : (20 * number + 5) * 512] == expected

    run(work)
