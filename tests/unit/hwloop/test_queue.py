"""A virtqueue between a Hal and a Transport."""

from __future__ import annotations

from array import array

import pytest

from cython_ring import Engine
from hwloop.errors import (
    AlreadyUsed,
    DeadlineExpired,
    DeviceClosed,
    DeviceLost,
    InvalidParam,
    QueueBroken,
    QueueFull,
    TransportError,
    Unsupported,
)
from hwloop.hal.base import BufferDirection, Dma
from hwloop.hal.fake import FakeHal
from hwloop.hal.interrupt import Interrupt
from hwloop.queue import LARGEST_SIZE, VirtQueue
from hwloop.spec import DeviceType, Feature, InterruptStatus, PhysAddr
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, RINGS, FakeDevice
from tests.contract.machines import MACHINES


class Echo(FakeDevice):
    """Writes the readable bytes back into the writable part."""

    def serve(self, chain: object) -> int:
        data = chain.read()  # type: ignore[attr-defined]
        return chain.write(data[: chain.writable_bytes])  # type: ignore[attr-defined, no-any-return]


class Bench:
    """A device with queues of these sizes, and a transport that has negotiated."""

    def __init__(self, *sizes: int, features: int = MODERN, accepted: int = MODERN, machine: str = "fake") -> None:
        self.hal = FakeHal()
        self.device = Echo(self.hal, DeviceType.Console, features, list(sizes), b"")
        self.transport = MACHINES[machine](self.hal, self.device)
        self.transport.begin_init(accepted)
        self.out = Dma(self.hal, 1, BufferDirection.DriverToDevice)
        self.into = Dma(self.hal, 1, BufferDirection.DeviceToDriver)

    def queue(self, index: int = 0, size: int | None = None, table_parts: int = 0) -> VirtQueue:
        queue = VirtQueue(self.hal, self.transport, index, size, table_parts=table_parts)
        self.transport.finish_init()
        return queue

    def part(self, buffer: Dma, offset: int, length: int) -> tuple[PhysAddr, int]:
        return PhysAddr(buffer.paddr + offset), length


def test_a_buffer_goes_to_the_device_and_comes_back_with_its_token() -> None:
    bench = Bench(8)
    queue = bench.queue()
    bench.out.view[:5] = b"hello"
    token = object()
    queue.add([bench.part(bench.out, 0, 5)], [bench.part(bench.into, 0, 8)], token)
    assert queue.pop() is None, "the device does not see it yet"
    queue.submit()
    assert queue.wait(1.0)
    assert queue.pop() == (token, 5)
    assert bytes(bench.into.view[:5]) == b"hello"
    assert queue.free == 8


def test_many_buffers_are_submitted_with_one_notification() -> None:
    bench = Bench(8)
    queue = bench.queue()
    for i in range(4):
        queue.add([bench.part(bench.out, i, 1)], [], i)
    assert queue.outstanding == 4
    queue.submit()
    assert queue.notifications == 1
    assert [queue.pop() for _ in range(5)] == [(0, 0), (1, 0), (2, 0), (3, 0), None]


def test_submitting_nothing_notifies_nobody() -> None:
    bench = Bench(8)
    queue = bench.queue()
    queue.submit()
    assert queue.notifications == 0


def test_a_device_that_wants_no_notification_gets_none() -> None:
    bench = Bench(8)
    queue = bench.queue()
    ring = bench.device.queues[0].ring
    assert ring is not None
    ring.set_used_flags(1)
    queue.add([bench.part(bench.out, 0, 1)], [], 1)
    queue.submit()
    assert queue.notifications == 0
    bench.device.run(0)
    assert queue.pop() == (1, 0)


def test_we_poll_and_ask_for_no_interrupts() -> None:
    bench = Bench(8)
    bench.queue()
    ring = bench.device.queues[0].ring
    assert ring is not None
    assert ring.read_avail_flags() == 1


def test_a_full_queue_says_so_and_takes_nothing() -> None:
    bench = Bench(4)
    queue = bench.queue()
    parts = [bench.part(bench.out, i, 1) for i in range(3)]
    queue.add(parts, [], 1)
    with pytest.raises(QueueFull, match="Virtqueue is full"):
        queue.add(parts, [], 2)
    assert (queue.free, queue.outstanding) == (1, 1)


def test_descriptors_and_available_ring_are_memory_that_the_device_only_reads() -> None:
    bench = Bench(8)
    bench.queue()
    state = bench.device.queues[0]
    bench.hal.translate(state.desc, 16 * 8, False)
    bench.hal.translate(state.driver, 6 + 2 * 8, False)
    bench.hal.translate(state.device, 6 + 8 * 8, True)
    for address in (state.desc, state.driver):
        with pytest.raises(AssertionError, match="may not write"):
            bench.hal.translate(address, 1, True)
    with pytest.raises(AssertionError, match="may not read"):
        bench.hal.translate(state.device, 1, False)


@pytest.mark.parametrize("size", [1, 2, 8, 64, 256, 1024, 32768])
def test_the_areas_are_aligned_and_apart(size: int) -> None:
    bench = Bench(size)
    queue = bench.queue(0, size)
    state = bench.device.queues[0]
    assert queue.size == state.size == size
    assert state.desc % 16 == state.driver % 2 == state.device % 4 == 0
    assert state.desc + 16 * size <= state.driver


@pytest.mark.parametrize(
    ("largest", "size"), [(1, 1), (3, 2), (100, 64), (256, 256), (1000, LARGEST_SIZE), (32768, 256)]
)
def test_without_a_size_the_largest_power_of_two_is_taken(largest: int, size: int) -> None:
    bench = Bench(largest)
    assert bench.queue().size == size


@pytest.mark.parametrize("size", [0, -1, 3, 100, 128, 1 << 16])
def test_a_size_that_the_queue_cannot_have_is_the_callers_mistake(size: int) -> None:
    bench = Bench(64)
    with pytest.raises(InvalidParam, match="a power of two up to 64"):
        bench.queue(0, size)


@pytest.mark.parametrize(
    ("largest", "words"), [(0, "no queue 0"), (32769, "32768 is the most"), (65535, "claims 65535")]
)
def test_a_size_that_no_queue_can_have_is_the_devices(largest: int, words: str) -> None:
    bench = Bench(largest)
    with pytest.raises(TransportError, match=words):
        bench.queue()


def test_a_queue_that_the_device_does_not_have_is_named() -> None:
    with pytest.raises(TransportError, match="no queue 1"):
        Bench(8).queue(1)


def test_a_queue_is_set_up_once() -> None:
    bench = Bench(8)
    queue = bench.queue()
    with pytest.raises(AlreadyUsed, match="queue 0 is set up already; reset the device first"):
        VirtQueue(bench.hal, bench.transport, 0)
    bench.transport.begin_init(MODERN)
    assert VirtQueue(bench.hal, bench.transport, 0).size == queue.size


def test_what_the_device_gets_wrong_breaks_the_queue_for_good() -> None:
    bench = Bench(8)
    queue = bench.queue()
    bench.device.hold = True
    queue.add([bench.part(bench.out, 0, 1)], [], 1)
    queue.submit()
    ring = bench.device.queues[0].ring
    assert ring is not None
    ring.put_used(0, 5, 0)
    ring.set_used_idx(1)
    for _ in range(2):
        with pytest.raises(QueueBroken, match=r"queue 0: .*used id not outstanding.*2\.7\.8"):
            queue.pop()


def test_what_was_given_up_says_so_whatever_it_is_asked() -> None:
    bench = Bench(8)
    queue = bench.queue()
    queue.give_up()
    uses = {
        "add": lambda: queue.add([bench.part(bench.out, 0, 1)], [], 1),
        "submit": queue.submit,
        "notify": queue.notify,
        "pop": queue.pop,
        "can_pop": queue.can_pop,
        "wait": lambda: queue.wait(0.001),
        "should_notify": queue.should_notify,
        "set_dev_notify": lambda: queue.set_dev_notify(True),
    }
    for use in uses.values():
        with pytest.raises(DeviceLost, match="queue 0: the device is out of order"):
            use()
    assert queue.waiter.arm(), "there is something to be told"
    queue.waiter.disarm()


def test_a_dump_has_a_line_for_each_fact() -> None:
    bench = Bench(8)
    queue = bench.queue()
    lines = queue.dump().splitlines()
    assert "queue 0: size = 8" in lines
    assert all(line.startswith("queue 0: ") for line in lines)


def test_a_closed_queue_gives_its_memory_back_and_does_nothing() -> None:
    bench = Bench(8)
    queue = bench.queue()
    bench.out.close()
    bench.into.close()
    bench.transport.reset()
    queue.close()
    queue.close()
    assert bench.hal.leaks() == []
    for use in (queue.submit, queue.pop, queue.dump, lambda: queue.free, lambda: queue.add([], [], 1)):
        with pytest.raises(DeviceClosed, match="queue 0 is closed"):
            use()


def test_waiting_ends_when_nothing_comes() -> None:
    bench = Bench(8)
    assert bench.queue().wait(0.001) is False


def test_one_buffer_goes_there_and_back_in_one_call() -> None:
    bench = Bench(8)
    queue = bench.queue()
    bench.out.view[:5] = b"hello"
    parts = [bench.part(bench.out, 0, 5)], [bench.part(bench.into, 0, 8)]
    assert queue.add_notify_wait_pop(*parts, seconds=1) == 5
    assert not queue.can_pop()
    queue.add(*parts, token=1)
    with pytest.raises(AlreadyUsed, match="1 buffers outstanding"):
        queue.add_notify_wait_pop(*parts, seconds=1)
    queue.submit()
    assert queue.can_pop()


def test_a_buffer_that_does_not_come_back_is_waited_for_no_longer_than_asked() -> None:
    bench = Bench(8)
    queue = bench.queue()
    bench.device.faults.drop = True
    with pytest.raises(DeadlineExpired, match="a buffer of queue 0"):
        queue.add_notify_wait_pop([bench.part(bench.out, 0, 5)], [], seconds=0.05)


class Line(Interrupt):
    """An interrupt that a test raises."""

    def __init__(self, needs_ack: bool = True) -> None:
        self.needs_ack = needs_ack
        self.raised = False
        self.rearmed = 0

    def wait(self, seconds: float) -> bool:
        raised, self.raised = self.raised, False
        return raised

    def rearm(self) -> None:
        self.rearmed += 1

    def close(self) -> None:
        pass


def test_a_queue_waits_on_its_interrupt_and_acknowledges_a_line_before_it_is_armed_again() -> None:
    bench = Bench(8)
    queue = bench.queue()
    acknowledged: list[int] = []

    def acknowledge() -> InterruptStatus:
        acknowledged.append(line.rearmed)
        return InterruptStatus.QUEUE_INTERRUPT

    bench.transport.ack_interrupt = acknowledge  # type: ignore[method-assign]
    line = Line()
    queue.use_interrupt(line)
    ring = bench.device.queues[0].ring
    assert ring is not None
    assert ring.read_avail_flags() == 0
    assert not queue.wait(0.01)
    assert (line.rearmed, acknowledged) == (0, [])
    line.raised = True
    assert not queue.wait(0.01), "a shared line, and nothing of ours"
    assert (line.rearmed, acknowledged, queue.interrupts) == (1, [0], 1)
    queue.use_interrupt(None)
    assert ring.read_avail_flags() == 1


def test_what_has_completed_is_taken_without_waiting_for_an_interrupt() -> None:
    bench = Bench(8)
    queue = bench.queue()
    queue.use_interrupt(Line())
    queue.add([bench.part(bench.out, 0, 5)], [], 1)
    queue.submit()
    assert queue.wait(0)
    assert queue.interrupts == 0


class LegacyTransport(FakeTransport):
    fixed_queue_size = True

    def requires_legacy_layout(self) -> bool:
        return True


def test_a_legacy_queue_is_one_block_with_the_used_ring_on_a_page_of_its_own() -> None:
    bench = Bench(256)
    bench.transport.__class__ = LegacyTransport
    queue = bench.queue()
    state = bench.device.queues[0]
    assert state.size == 256
    assert state.desc % 4096 == 0
    assert state.driver == state.desc + 16 * 256
    assert state.device == state.desc + 8192
    bench.out.view[:2] = b"hi"
    assert queue.add_notify_wait_pop([bench.part(bench.out, 0, 2)], [bench.part(bench.into, 0, 2)], 1) == 2


def test_a_size_that_the_device_fixes_is_taken_or_refused() -> None:
    bench = Bench(100, 512)
    bench.transport.__class__ = LegacyTransport
    with pytest.raises(TransportError, match="100 descriptors, which is no power of two"):
        bench.queue(0)
    with pytest.raises(InvalidParam, match="fixes it at 512"):
        bench.queue(1, 256)
    assert bench.queue(1).size == 512, "more than we would choose"


# --- Formats and features ---------------------------------------------------------------------------------------------

COMBINATIONS = [
    packed | indirect | event | order
    for packed in (0, Feature.RING_PACKED)
    for indirect in (0, Feature.INDIRECT_DESC)
    for event in (0, Feature.EVENT_IDX)
    for order in (0, Feature.IN_ORDER)
]


@pytest.mark.parametrize("features", COMBINATIONS)
def test_buffers_go_round_with_every_combination_of_features(features: int) -> None:
    bench = Bench(8, features=MODERN | RINGS, accepted=MODERN | features | Feature.NOTIFICATION_DATA)
    queue = bench.queue(table_parts=4)
    for number in range(40):
        bench.out.view[:1] = bytes([number])
        for slot in range(2):
            parts = [bench.part(bench.into, 8 * slot, 1), bench.part(bench.into, 8 * slot + 1, 1)]
            queue.add([bench.part(bench.out, 0, 1), bench.part(bench.out, 0, 1)], parts, slot)
        queue.submit()
        assert sorted(queue.pop() or () for _ in range(2)) == [(0, 2), (1, 2)]
        assert bytes(bench.into.view[:2]) == bytes([number, number])
    assert queue.free == 8
    assert queue.notifications == 40


def test_an_indirect_table_takes_one_descriptor() -> None:
    bench = Bench(4, features=MODERN | RINGS, accepted=MODERN | Feature.INDIRECT_DESC)
    queue = bench.queue(table_parts=8)
    queue.add([bench.part(bench.out, i, 1) for i in range(3)], [bench.part(bench.into, 0, 4)], None)
    assert queue.free == 3


@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_a_packed_queue_may_have_any_number_of_descriptors(size: int) -> None:
    bench = Bench(100, features=MODERN | RINGS, accepted=MODERN | Feature.RING_PACKED)
    queue = bench.queue(size=size)
    for number in range(2 * size + 1):
        queue.add([], [bench.part(bench.into, 0, 1)], number)
        queue.submit()
        assert queue.pop() == (number, 0)


def test_a_packed_queue_takes_the_size_of_its_device() -> None:
    bench = Bench(100, features=MODERN | RINGS, accepted=MODERN | Feature.RING_PACKED)
    assert bench.queue().size == 100


def test_a_split_queue_of_the_largest_size() -> None:
    bench = Bench(32768)
    queue = bench.queue(size=32768)
    queue.add([], [bench.part(bench.into, 0, 1)], "last")
    queue.submit()
    assert queue.pop() == ("last", 0)


@pytest.mark.parametrize("packed", [0, Feature.RING_PACKED])
@pytest.mark.parametrize("machine", ["fake", "pci", "mmio-2"])
def test_a_queue_is_reset_by_itself_and_begins_anew(machine: str, packed: int) -> None:
    bench = Bench(
        8, features=MODERN | RINGS, accepted=MODERN | packed | Feature.RING_RESET | Feature.NOTIFICATION_DATA,
        machine=machine,
    )  # fmt: skip
    queue = bench.queue()
    bench.device.faults.drop = True
    bench.device.faults.queue_reset_reads = 3
    for token in "abc":
        queue.add([], [bench.part(bench.into, 0, 1)], token)
        queue.submit()
    queue.stop()
    bench.device.faults.drop = False
    assert queue.restart() == ["a", "b", "c"]
    assert queue.outstanding == 0
    queue.add([], [bench.part(bench.into, 0, 1)], "d")
    queue.submit()
    assert queue.pop() == ("d", 0)


def test_a_queue_that_does_not_stop_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwloop.transport.fake.RESET_SECONDS", 0.05)
    bench = Bench(8, features=MODERN | RINGS, accepted=MODERN | Feature.RING_RESET)
    queue = bench.queue()
    bench.device.faults.queue_reset_reads = -1
    with pytest.raises(DeadlineExpired, match="queue 0 to finish its reset"):
        queue.stop()


def test_without_ring_reset_a_queue_cannot_be_stopped() -> None:
    with pytest.raises(Unsupported, match="RING_RESET was not negotiated"):
        Bench(8).queue().stop()


@pytest.mark.parametrize("features", COMBINATIONS)
def test_an_engine_works_on_a_queue_with_every_combination(features: int) -> None:
    bench = Bench(8, features=MODERN | RINGS, accepted=MODERN | features | Feature.NOTIFICATION_DATA)
    queue = bench.queue()
    engine = Engine(
        queue.ring, queue.slots(), doorbell=queue.doorbell(), indirect=bool(features & Feature.INDIRECT_DESC),
        head_bytes=1, good=7,
    )  # fmt: skip
    completions = array("Q", bytes(16 * 8))
    for number in range(20):
        request = array("Q", [7, 0, bench.into.paddr, number, 1 | 1 << 32])
        assert engine.submit(request * 2) == 2
        assert engine.reap(completions) == 2
        assert (engine.failed, completions[0], completions[2]) == (2, number, number), "Echo wrote no tail"
    assert queue.notifications == 20


def test_a_transport_whose_registers_cannot_reset_a_queue_does_not_offer_it() -> None:
    bench = Bench(8, features=MODERN | RINGS, accepted=MODERN | RINGS, machine="pci-1.0")
    assert not bench.transport.negotiated & Feature.RING_RESET
