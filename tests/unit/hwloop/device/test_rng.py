"""What the entropy driver does when the device is slow, wrong or gone."""

from __future__ import annotations

import pytest

from hwloop.device.fake_rng import FakeRng
from hwloop.device.rng import REQUEST_BYTES, VirtioRng
from hwloop.errors import DeadlineExpired, DeviceError, DeviceLost, DmaError, HwloopError, QueueBroken, exit_code_of
from hwloop.hal.base import BufferDirection
from hwloop.hal.fake import FakeHal
from hwloop.spec import DeviceStatus
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import RuleBroken


class Bench:
    """A driver on a fake device."""

    def __init__(self, **shape: int) -> None:
        self.hal = FakeHal()
        self.device = FakeRng(self.hal, **shape)
        self.rng = VirtioRng(FakeTransport(self.device), self.hal, request_seconds=0.1)


def test_what_is_read_is_what_the_device_wrote_and_nothing_of_it_is_lost() -> None:
    bench = Bench()
    data = b"".join(bench.rng.read(length) for length in (1, 5000, 20_000, 3))
    assert data == bench.device.given


def test_a_device_that_writes_less_is_asked_for_the_rest() -> None:
    bench = Bench(most=7)
    assert bench.rng.read(100) == bench.device.given
    bench.device.rng_faults.short = 3
    assert len(bench.rng.read(20)) == 20


def test_a_long_read_has_several_requests_in_flight_and_none_is_larger_than_a_slot() -> None:
    bench = Bench()
    counts = []
    run = bench.device.run
    bench.device.run = lambda index: (run(index), counts.append(len(bench.device.asked)))[0]  # type: ignore[method-assign]
    bench.rng.read(8 * REQUEST_BYTES)
    assert counts[0] == 8
    assert set(bench.device.asked) == {REQUEST_BYTES}


def test_no_more_is_asked_for_than_is_wanted() -> None:
    bench = Bench()
    bench.rng.read(2 * REQUEST_BYTES + 5)
    assert sum(bench.device.asked) == 2 * REQUEST_BYTES + 5


def test_a_queue_of_one_descriptor_is_enough() -> None:
    assert len(Bench(queue_size=1).rng.read(10_000)) == 10_000


def test_an_answer_without_a_byte_is_the_devices_error() -> None:
    bench = Bench()
    bench.device.rng_faults.zero = 1
    with pytest.raises(DeviceError, match=r"answered a request for 10 random bytes with none") as caught:
        bench.rng.read(10)
    assert caught.value.section == "5.4.6.2"
    assert exit_code_of(caught.value) == 4
    assert bench.device.status == 0
    with pytest.raises(DeviceLost, match="out of order since"):
        bench.rng.read(10)
    bench.rng.close()
    assert bench.hal.leaks() == []


def test_more_bytes_than_were_asked_for_break_the_queue() -> None:
    bench = Bench()
    bench.rng.read(10)
    bench.device.rng_faults.too_long = 1
    with pytest.raises(QueueBroken):
        bench.rng.read(10)
    assert bench.device.status == 0


@pytest.mark.parametrize("length", [1, 30_000])
def test_a_device_that_never_answers_is_reset_at_the_deadline(length: int) -> None:
    bench = Bench()
    bench.device.faults.drop = True
    with pytest.raises(DeadlineExpired, match=rf"0.1 s waiting for {length} of {length} random bytes") as caught:
        bench.rng.read(length)
    assert exit_code_of(caught.value) == 5
    assert any("queue 0" in note for note in caught.value.__notes__)
    assert bench.device.status_writes[-1] == 0
    with pytest.raises(DeviceLost):
        bench.rng.read(1)
    bench.rng.close()
    assert bench.hal.leaks() == []


def test_a_reset_that_never_ends_leaves_the_memory_to_the_device() -> None:
    bench = Bench()
    bench.device.faults.drop = True
    bench.device.faults.reset_reads = -1
    bench.rng.transport.reset = _impatient(bench.rng.transport.reset)  # type: ignore[method-assign]
    with pytest.raises(DeadlineExpired, match="finish its reset"):
        bench.rng.read(1)
    bench.rng.close()
    assert bench.hal.leaks() != []


def _impatient(reset):  # type: ignore[no-untyped-def]
    return lambda: reset(0.05)


def test_a_lost_notification_costs_no_read() -> None:
    bench = Bench()
    bench.device.faults.lose_notifications = 1
    assert len(bench.rng.read(10, seconds=0.4)) == 10


def test_the_time_given_to_a_call_counts() -> None:
    bench = Bench()
    bench.device.faults.drop = True
    with pytest.raises(DeadlineExpired, match=r"0.02 s"):
        bench.rng.read(1, 0.02)


@pytest.mark.parametrize("how", ["needs reset", "reset", "gone"])
def test_a_device_that_is_lost_while_it_is_waited_for_is_said_at_once(how: str) -> None:
    bench = Bench()
    bench.device.hold = True
    if how == "needs reset":
        bench.device.status |= DeviceStatus.DEVICE_NEEDS_RESET
    elif how == "reset":
        real = bench.device.run
        bench.device.run = lambda index: (real(index), bench.device.reset_itself())[0]  # type: ignore[method-assign]
    else:
        bench.device.faults.gone = True
    with pytest.raises(DeviceLost):
        bench.rng.read(1, seconds=30)


def test_memory_that_the_device_cannot_reach_any_more_is_a_lost_device() -> None:
    bench = Bench()
    bench.device.hold = True

    def fail() -> None:
        raise DmaError("a pinned page moved")

    bench.hal.check = fail  # type: ignore[method-assign]
    with pytest.raises(DeviceLost, match="a pinned page moved"):
        bench.rng.read(1, seconds=30)
    with pytest.raises(DeviceLost, match="out of order"):
        bench.rng.read(1)


def test_a_notification_that_fails_is_a_lost_device() -> None:
    bench = Bench()

    def fail(queue: int, data: int | None = None) -> None:
        raise OSError(19, "No such device")

    bench.rng.transport.notify = fail  # type: ignore[method-assign]
    with pytest.raises(DeviceLost, match="No such device"):
        bench.rng.read(1)
    with pytest.raises(HwloopError):
        bench.rng.read(1)


def test_bytes_of_an_interrupted_call_serve_the_next_one() -> None:
    bench = Bench()
    bench.device.hold = True
    wait = bench.rng._wait_for

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    bench.rng._wait_for = interrupt  # type: ignore[assignment, method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.rng.read(3 * REQUEST_BYTES)
    bench.rng._wait_for = wait  # type: ignore[method-assign]
    bench.device.release()
    bench.device.hold = False
    assert bench.rng.read(10) == bench.device.given[:10]
    assert len(bench.rng.read(5 * REQUEST_BYTES)) == 5 * REQUEST_BYTES


def test_what_was_read_does_not_stay_in_the_devices_reach() -> None:
    bench = Bench()
    bench.rng.read(6000)
    assert not any(bench.rng._memory.view)


def test_the_fake_refuses_a_buffer_that_it_would_read() -> None:
    bench = Bench()
    shared = bench.hal.share(b"seed", BufferDirection.DriverToDevice)
    bench.rng.virtqueues[0].add([(shared, 4)], [], "wrong")
    with pytest.raises(RuleBroken, match=r"5\.4\.6\.1"):
        bench.rng.virtqueues[0].submit()


def test_the_fake_gives_the_same_bytes_in_every_run() -> None:
    assert Bench().rng.read(100) == Bench().rng.read(100)
