"""A queue that owns its buffers."""

from __future__ import annotations

import pytest

from cython_ring import Chain
from hwloop.errors import AlreadyUsed, InvalidParam, QueueBroken
from hwloop.hal.base import BufferDirection, Dma
from hwloop.hal.fake import FakeHal
from hwloop.owning_queue import OwningQueue
from hwloop.queue import VirtQueue
from hwloop.spec import DeviceType
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, FakeDevice


class Speaker(FakeDevice):
    """Fills the buffers that it holds when it is told to speak."""

    words: list[bytes]

    def speak(self, *words: bytes) -> None:
        self.words = list(words)
        self.release(0, len(words))

    def serve(self, chain: Chain) -> int:
        return chain.write(self.words.pop(0))


class Bench:
    def __init__(self, size: int = 4, buffer_size: int = 16) -> None:
        self.hal = FakeHal()
        self.device = Speaker(self.hal, DeviceType.Console, MODERN, [size], b"")
        self.device.hold = True
        transport = FakeTransport(self.device)
        transport.begin_init(MODERN)
        self.queue = VirtQueue(self.hal, transport, 0)
        self.owning = OwningQueue(self.hal, self.queue, buffer_size)
        transport.finish_init()
        self.owning.start()


def test_every_descriptor_is_a_buffer_that_the_device_has() -> None:
    bench = Bench(8, 100)
    assert [chain.writable_bytes for chain in bench.device.queues[0].held] == [100] * 8
    assert bench.queue.free == 0


def test_what_the_device_says_comes_in_its_order_and_the_buffers_go_round() -> None:
    bench = Bench(4)
    for turn in range(25):
        bench.device.speak(b"one %d" % turn, b"two")
        assert bench.owning.poll(bytes.upper) == b"ONE %d" % turn
        assert bench.owning.poll(len) == 3
        assert bench.owning.poll(len) is None
    assert len(bench.device.queues[0].held) == 4


def test_a_handler_that_fails_loses_no_buffer() -> None:
    bench = Bench(4)
    bench.device.speak(b"odd")

    def refuse(data: bytes) -> None:
        raise ValueError(data)

    with pytest.raises(ValueError, match="odd"):
        bench.owning.poll(refuse)
    assert len(bench.device.queues[0].held) == 4


def test_nothing_of_the_last_message_shows_in_a_shorter_one() -> None:
    bench = Bench(1)
    bench.device.speak(b"0123456789")
    assert bench.owning.poll(bytes) == b"0123456789"
    bench.device.speak(b"ab")
    assert bench.owning.poll(bytes) == b"ab"


def test_a_length_over_the_buffer_breaks_the_queue() -> None:
    bench = Bench(2)
    ring = bench.device.queues[0].ring
    assert ring is not None
    ring.put_used(0, bench.device.queues[0].held[0].head, 17)
    ring.set_used_idx(1)
    with pytest.raises(QueueBroken):
        bench.owning.poll(bytes)


def test_interrupts_can_be_asked_for_and_not() -> None:
    bench = Bench()
    ring = bench.device.queues[0].ring
    assert ring is not None
    assert ring.read_avail_flags() == 1, "polled: no interrupts, please"
    bench.owning.set_dev_notify(True)
    assert ring.read_avail_flags() == 0
    assert isinstance(bench.owning.should_notify(), bool)


def test_a_queue_in_use_and_a_buffer_of_nothing_are_refused() -> None:
    bench = Bench()
    with pytest.raises(AlreadyUsed):
        OwningQueue(bench.hal, bench.queue, 16)
    with pytest.raises(InvalidParam):
        OwningQueue(bench.hal, bench.queue, 0)


def test_closing_gives_back_all_memory() -> None:
    bench = Bench()
    bench.owning.close()
    bench.owning.close()
    assert bench.hal.leaks() == []
    Dma(bench.hal, 1, BufferDirection.Both).close()
