"""Faults 40 and 61: an address that is not the device's, and one queue of several that works no more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from cython_ring import DmaBuffer, RingUsageError
from hwloop.deadline import wait_until
from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_queue import Batch, BlkQueue
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import DeadlineExpired, DeviceLost, DmaError, QueueBroken, QueueFull
from hwloop.hal.base import BufferDirection, Dma
from hwloop.hal.fake import FakeHal
from hwloop.hal.fake_interrupt import FakeInterrupts
from hwloop.queue_options import QueueOptions
from hwloop.spec import BlkFeature, PhysAddr
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, RINGS

FORMATS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


def disk_of(
    *, packed: bool = False, queues: int = 3, hal: FakeHal | None = None, wait: str = "poll", seconds: float = 0.1
) -> tuple[VirtioBlk, FakeBlk]:
    hal = hal or FakeHal()
    device = FakeBlk(hal, features=MODERN | RINGS | BlkFeature.MQ, queues=queues)
    if hal.interrupts is not None:
        device.connect(hal.interrupts)
    options = QueueOptions({"packed": packed}, queues=queues)
    return VirtioBlk(FakeTransport(device), hal, request_seconds=seconds, wait=wait, options=options), device


# --- An address that the device must not have -------------------------------------------------------------------------


class WildHal(FakeHal):
    """Has a mistake, once `astray` is set: what it shares and allocates is said to be elsewhere."""

    astray = 0

    def share(self, buffer: Any, direction: BufferDirection) -> PhysAddr:
        return PhysAddr(super().share(buffer, direction) + self.astray)

    def dma_alloc(self, pages: int, direction: BufferDirection) -> tuple[PhysAddr, int]:
        paddr, vaddr = super().dma_alloc(pages, direction)
        return PhysAddr(paddr + self.astray), vaddr


@pytest.mark.fault(40)
@pytest.mark.parametrize("astray", [1 << 40, 4096, 64, -(1 << 20)])
def test_an_address_that_a_hal_gets_wrong_is_refused_before_it_is_in_the_ring(astray: int) -> None:
    hal = WildHal()
    disk, device = disk_of(hal=hal, queues=1)
    with disk:
        disk.write(0, b"a" * 4096)
        before = disk.virtqueues[0].ring.dump()["shared"]
        hal.astray = astray
        for call in (lambda: disk.read(0, 4096), lambda: disk.write(0, bytes(4096))):
            with pytest.raises(DmaError):
                call()
        with pytest.raises(DmaError):
            disk.alloc(8192)
        assert disk.virtqueues[0].ring.dump()["shared"] == before
        hal.astray = 0
        assert disk.read(0, 4096) == b"a" * 4096
    assert device.status == 0


@pytest.mark.fault(40)
def test_a_buffer_whose_memory_is_not_the_devices_is_refused_before_it_is_in_the_ring() -> None:
    disk, device = disk_of(queues=2)
    with disk:
        device.hold = True
        own = disk.alloc(4096)
        wild = DmaBuffer(own.address, own.device_address + (1 << 40), 4096)
        longer = DmaBuffer(own.address, own.device_address, 8192)
        queue, batch = disk.queues[1], Batch(4)
        for buffer in (wild, longer):
            batch.clear()
            batch.read(0, own)
            batch.write(8, buffer, 0, 512)
            with pytest.raises(DmaError):
                queue.submit_read(0, buffer, 1, 0, 512)
            with pytest.raises(DmaError):
                queue.read_into(0, buffer, 0, 512)
            with pytest.raises(DmaError):
                queue.writev(0, [(own, 0, 512), (buffer, 0, 512)], 1)
            with pytest.raises(DmaError):
                queue.submit(batch)
            with pytest.raises(DmaError):
                queue.run(buffer, length=512, depth=2, requests=2)
            assert queue.outstanding == 0
        assert device.queues[1].held == []
        part = DmaBuffer(own.address + 512, own.device_address + 512, 512)
        disk.queues[1].submit_read(0, part, 1)
        assert disk.queues[1].outstanding == 1


@pytest.mark.fault(40)
def test_a_buffer_is_looked_up_once_and_not_for_each_request() -> None:
    disk, _ = disk_of(queues=2)
    with disk:
        buffer = disk.alloc(4096)
        asked: list[int] = []
        for queue in disk.queues:
            queue.check_memory = lambda address, length: asked.append(length)
        for _ in range(3):
            for queue in disk.queues:
                queue.read_into(0, buffer)
        assert asked == [4096, 4096]


def test_what_is_inside_an_allocation_is_the_devices() -> None:
    hal = FakeHal()
    with Dma(hal, 2, BufferDirection.Both) as first, Dma(hal, 1, BufferDirection.Both) as second:
        for address, length in ((first.paddr, 8192), (first.paddr + 1, 8191), (second.paddr + 4095, 1)):
            hal.check_address(address, length)
        for address, length in (
            (first.paddr, 8193), (first.paddr, 0), (first.paddr - 1, 2), (second.paddr + 4096, 1), (0, 1)
        ):  # fmt: skip
            with pytest.raises(DmaError):
                hal.check_address(address, length)
    with pytest.raises(DmaError):
        hal.check_address(first.paddr, 1)
    hal.close()


# --- One queue of several ---------------------------------------------------------------------------------------------


@pytest.mark.fault(61)
@FORMATS
@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_broken_queue_breaks_the_disk_as_a_whole_and_it_recovers(index: int, packed: bool) -> None:
    disk, device = disk_of(packed=packed)
    with disk:
        buffer = disk.alloc(4096)
        device.hold = True
        others = [queue for queue in disk.queues if queue.index != index]
        for queue in disk.queues:
            queue.submit_read(0, buffer, 7)
        ring = device.queues[index].ring
        assert ring is not None
        if packed:
            ring.put_used(0, 0x77, 1, 0x8080)
        else:
            ring.put_used(0, 0x7777_7777, 1)
            ring.set_used_idx(1)
        with pytest.raises(QueueBroken, match=f"queue {index}: "):
            disk.queues[index].reap(1)
        assert device.status == 0, "the device was reset"
        for queue in others:
            for call in (queue.reap, lambda queue=queue: queue.submit_read(0, buffer, 8)):
                with pytest.raises(DeviceLost, match=f"queue {queue.index}: the device is out of order"):
                    call()
        with pytest.raises(DeviceLost, match=f"out of order since: queue {index}: ") as caught:
            disk.read(0, 512)
        assert isinstance(caught.value.__cause__, DeviceLost)
        device.hold = False
        disk.recover()
        memoryview(buffer)[:512] = b"n" * 512
        for queue in disk.queues:
            queue.write_from(queue.index, buffer, 0, 512)
        assert disk.read(0, 3 * 512) == b"n" * 1536


def read(queue: BlkQueue, buffer: DmaBuffer) -> None:
    queue.read_into(0, buffer)


def submit_and_reap(queue: BlkQueue, buffer: DmaBuffer) -> None:
    queue.submit_read(0, buffer, 1)
    queue.reap(1)


def run(queue: BlkQueue, buffer: DmaBuffer) -> None:
    queue.run(buffer, length=512, depth=2, requests=2)


@pytest.mark.fault(61, 1)
@FORMATS
@pytest.mark.parametrize("call", [read, submit_and_reap, run], ids=lambda call: call.__name__)
def test_a_request_of_one_queue_that_never_ends_is_the_disks_affair(
    call: Callable[[BlkQueue, DmaBuffer], object], packed: bool
) -> None:
    disk, device = disk_of(packed=packed)
    with disk:
        buffer = disk.alloc(4096)
        device.faults.drop = True
        queue = disk.queues[2]
        with pytest.raises(DeadlineExpired):
            call(queue, buffer)
        assert device.status == 0, "the device was reset"
        with pytest.raises(DeviceLost, match="out of order since"):
            disk.read(0, 512)
        device.faults.drop = False
        disk.recover()
        assert disk.read(0, 512) == bytes(512)
        disk.queues[2].read_into(0, buffer)


@pytest.mark.fault(61)
def test_a_wait_of_the_callers_own_length_breaks_nothing() -> None:
    disk, device = disk_of()
    with disk:
        buffer = disk.alloc(4096)
        device.hold = True
        disk.queues[1].submit_read(0, buffer, 1)
        with pytest.raises(DeadlineExpired):
            disk.queues[1].reap(1, deadline=0.01)
        device.hold = False
        device.release(1)
        assert list(disk.queues[1].reap(1).tags) == [1]
        assert disk.read(0, 512) == bytes(512)


@pytest.mark.fault(61)
@FORMATS
def test_who_waits_for_another_queue_is_told_at_once(packed: bool) -> None:
    disk, device = disk_of(packed=packed, seconds=60)
    with disk:
        buffer = disk.alloc(4096)
        device.hold = True
        said: list[Exception] = []
        inside = threading.Event()

        def wait() -> None:
            disk.queues[1].submit_read(0, buffer, 1)
            inside.set()
            try:
                disk.queues[1].reap(1)
            except DeviceLost as error:
                said.append(error)

        waiter = threading.Thread(target=wait)
        waiter.start()
        assert inside.wait(30)
        disk.queues[0].request_seconds = 0.05
        disk.queues[0].submit_read(0, buffer, 1)
        with pytest.raises(DeadlineExpired):
            disk.queues[0].reap(1)
        waiter.join(30)
        assert not waiter.is_alive()
        assert "the device is out of order" in str(said[0])


@pytest.mark.parametrize("error", [QueueFull, RingUsageError])
def test_a_request_that_did_not_get_into_the_ring_breaks_nothing(
    error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, _ = disk_of()

    class Refusing:
        """An engine whose ring somebody else has filled, or that does not take the parts."""

        def put(self, *_: object) -> bool:
            if error is RingUsageError:
                raise RingUsageError("too many parts")
            return False

    with disk:
        free = disk.requests_free
        with monkeypatch.context() as patch:
            patch.setattr(disk, "_engine", Refusing())
            with pytest.raises(error):
                disk.submit_read(0, 512)
        assert disk.requests_free == free
        assert disk.poll() == []
        assert disk.read(0, 512) == bytes(512)


@pytest.mark.parametrize("call", ["read_into", "submit_read", "run"])
def test_a_doorbell_that_nobody_hears_breaks_the_disk(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a function that was pulled out."""
    disk, device = disk_of()

    def gone(*_: int) -> None:
        raise OSError(19, "the device cannot be notified: No such device")

    with disk:
        queue, buffer = disk.queues[1], disk.alloc(4096)
        calls: dict[str, Callable[[], object]] = {
            "read_into": lambda: queue.read_into(0, buffer),
            "submit_read": lambda: queue.submit_read(0, buffer, 1),
            "run": lambda: queue.run(buffer, length=512, depth=2, requests=10),
        }
        monkeypatch.setattr(disk.transport, "notify", gone)
        with pytest.raises(DeviceLost, match="queue 1: the device cannot be notified: No such device") as caught:
            calls[call]()
        assert isinstance(caught.value.__cause__, OSError)
        assert device.status == 0
        with pytest.raises(DeviceLost, match="out of order since: queue 1: the device cannot be notified"):
            disk.read(0, 512)


@pytest.mark.fault(61)
def test_the_end_of_the_disk_comes_through_its_own_requests_too() -> None:
    disk, device = disk_of()
    with disk:
        buffer = disk.alloc(4096)
        device.faults.drop = True
        with pytest.raises(DeadlineExpired):
            disk.read(0, 512)
        with pytest.raises(DeviceLost, match="queue 1: the device is out of order"):
            disk.queues[1].read_into(0, buffer)


@pytest.mark.fault(61, 27)
@pytest.mark.parametrize("vectors", [4, 2, 1])
@pytest.mark.parametrize("wait", ["irq", "adaptive"])
def test_an_interrupt_that_is_another_queues_costs_a_moment(wait: str, vectors: int) -> None:
    """The device sends each queue's interrupt with the vector of the one before."""
    hal = FakeHal(interrupts=FakeInterrupts(vectors))
    disk, device = disk_of(hal=hal, wait=wait, seconds=30)
    with disk:
        each = [queue.vector for queue in device.queues]
        for queue, vector in zip(device.queues, each[1:] + each[:1], strict=True):
            queue.vector = vector
        buffer = disk.alloc(4096)
        device.hold = True
        for virtqueue, queue in zip(disk.virtqueues, disk.queues, strict=True):
            for _ in range(3):
                queue.submit_read(0, buffer, 5)
                later = threading.Timer(0.005, device.release, [queue.index])
                later.start()
                wait_until(lambda virtqueue=virtqueue: virtqueue.wait(0.01), "the completion", 30)
                later.join()
                assert list(queue.reap(1).tags) == [5]
