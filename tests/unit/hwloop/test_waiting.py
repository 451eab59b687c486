"""The ways in which a queue waits, over a ring and an interrupt that do what a test says, and over real rings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cython_ring import RingBroken
from hwloop.errors import InvalidParam
from hwloop.hal.fake_interrupt import FakeInterrupts
from hwloop.hal.interrupt import Interrupt
from hwloop.spec import InterruptStatus
from hwloop.waiting import ADAPTIVE, IRQ, MODES, POLL, Waiter


class PaperRing:
    """Something completes at the look that `completes_at` names; `asked` is what was asked of the device, in order."""

    def __init__(self) -> None:
        self.looks = 0
        self.completes_at = -1
        self.asked: list[bool] = []
        self.spins: list[int] = []

    def wait(self, timeout_ns: int, spin_ns: int) -> bool:
        self.looks += 1
        if timeout_ns:
            self.spins.append(timeout_ns)
        return 0 <= self.completes_at < self.looks

    def set_used_notifications(self, enabled: bool) -> None:
        self.asked.append(enabled)


class PaperLine(Interrupt):
    """Interrupts as often as `times` says, whenever it is waited for; `at` is called before."""

    kind = "paper"

    def __init__(self, times: int = 0, *, needs_ack: bool = False, at: Callable[[], object] = int) -> None:
        self.times, self.needs_ack, self.at = times, needs_ack, at
        self.steps: list[str] = []

    def wait(self, seconds: float) -> bool:
        self.at()
        self.times -= 1
        return self.times >= 0

    def rearm(self) -> None:
        self.steps.append("rearm")

    def mask(self) -> None:
        self.steps.append("mask")

    def unmask(self) -> None:
        self.steps.append("unmask")

    def close(self) -> None:
        self.steps.append("close")


def nothing_pending() -> InterruptStatus:
    return InterruptStatus(0)


def waiter_on(ring: PaperRing, line: Interrupt | None, mode: str = IRQ, *, shared: bool = False) -> Waiter:
    waiter = Waiter(ring, nothing_pending)
    waiter.use(line, mode, shared=shared)
    return waiter


def test_polling_asks_for_no_interrupts_from_the_beginning() -> None:
    ring = PaperRing()
    waiter = Waiter(ring, nothing_pending)
    assert not waiter.wait(0.25)
    assert (ring.asked, ring.spins, waiter.fileno()) == ([False], [250_000_000], None)


def test_irq_asks_for_interrupts_all_the_time_and_never_spins() -> None:
    ring = PaperRing()
    waiter = waiter_on(ring, PaperLine(times=1, at=lambda: setattr(ring, "completes_at", 0)))
    assert waiter.wait(5)
    assert (ring.asked, ring.spins, waiter.interrupts) == ([False, True], [], 1)


def test_adaptive_asks_for_interrupts_only_while_it_sleeps() -> None:
    ring = PaperRing()
    waiter = waiter_on(ring, PaperLine(times=1, at=lambda: setattr(ring, "completes_at", 0)), ADAPTIVE)
    assert waiter.wait(5)
    assert ring.asked == [False, False, True, False]
    assert len(ring.spins) == 1


def test_adaptive_does_not_sleep_for_what_comes_while_it_spins() -> None:
    ring = PaperRing()
    ring.completes_at = 0
    waiter = waiter_on(ring, PaperLine(times=1), ADAPTIVE)
    assert waiter.wait(5)
    assert (ring.asked, waiter.interrupts) == ([False, False], 0)


def test_what_completes_while_interrupts_are_turned_on_is_not_slept_for() -> None:
    ring = PaperRing()
    ring.completes_at = 1
    line = PaperLine(times=1)
    assert waiter_on(ring, line, ADAPTIVE).wait(5)
    assert line.times == 1, "nobody waited for it"


@pytest.mark.fault(27)
@pytest.mark.parametrize("mode", [IRQ, ADAPTIVE])
def test_an_interrupt_that_was_lost_costs_the_time_of_one_wait_and_not_the_completion(mode: str) -> None:
    ring = PaperRing()
    waiter = waiter_on(ring, PaperLine(times=0, at=lambda: setattr(ring, "completes_at", 0)), mode)
    assert waiter.wait(0.01)
    assert waiter.interrupts == 0


@pytest.mark.fault(27)
def test_an_interrupt_for_nothing_does_not_end_the_wait() -> None:
    ring = PaperRing()
    line = PaperLine(times=3)
    line.at = lambda: setattr(ring, "completes_at", 0 if line.times == 1 else -1)
    waiter = waiter_on(ring, line)
    assert waiter.wait(5)
    assert waiter.interrupts == 3


def test_a_line_is_acknowledged_before_it_is_armed_and_tells_of_the_configuration() -> None:
    ring, steps = PaperRing(), []
    line = PaperLine(times=1, needs_ack=True)

    def acknowledge() -> InterruptStatus:
        line.steps.append("acknowledge")
        return InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT

    waiter = Waiter(ring, acknowledge)
    waiter.on_config = lambda: steps.append("config")
    waiter.use(line)
    assert not waiter.wait(0.01)
    assert (line.steps, steps) == (["acknowledge", "rearm"], ["config"])


def test_a_message_is_not_acknowledged() -> None:
    line = PaperLine(times=1)
    waiter = Waiter(PaperRing(), lambda: pytest.fail("there is nothing to acknowledge"))
    waiter.use(line)
    assert not waiter.wait(0.01)
    assert line.steps == ["rearm"]


@pytest.mark.fault(27)
@pytest.mark.parametrize(("shared", "steps"), [(False, ["mask"]), (True, [])])
def test_a_storm_is_ended_and_polled_through(
    shared: bool, steps: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hwloop.waiting.time.monotonic", lambda: 5.0)
    monkeypatch.setattr("hwloop.waiting.Deadline", lambda seconds: pytest_deadline(seconds))
    ring, line = PaperRing(), PaperLine(times=10_000)
    waiter = waiter_on(ring, line, shared=shared)
    assert not waiter.wait(5)
    assert (waiter.storms, waiter.interrupts) == (1, 1000)
    assert [step for step in line.steps if step != "rearm"] == steps
    assert "1000 interrupts (paper) came for nothing: polling for 1 s" in caplog.text
    left = line.times
    ring.completes_at = 0
    assert waiter.wait(5)
    assert line.times == left, "while it is masked the ring is polled"
    monkeypatch.setattr("hwloop.waiting.time.monotonic", lambda: 6.5)
    assert waiter.wait(5)
    assert [step for step in line.steps if step != "rearm"] == [*steps, *(["unmask"] if steps else [])]


class pytest_deadline:  # noqa: N801
    """A deadline that the clock of the test does not reach."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def remaining(self) -> float:
        return self.seconds


def test_interrupts_for_nothing_that_are_far_apart_are_no_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("hwloop.waiting.time.monotonic", lambda: 2.0 * next(clock))
    monkeypatch.setattr("hwloop.waiting.Deadline", lambda seconds: pytest_deadline(seconds))
    waiter = waiter_on(PaperRing(), PaperLine(times=3000))
    assert not waiter.wait(5)
    assert (waiter.storms, waiter.interrupts) == (0, 3000)


def test_a_way_to_wait_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidParam, match=r"called 'never'; choose one of: poll, irq, adaptive"):
        waiter_on(PaperRing(), PaperLine(), "never")


def test_a_ring_that_the_device_broke_is_asked_for_nothing() -> None:
    ring = PaperRing()
    waiter = waiter_on(ring, PaperLine())

    def broken(enabled: bool) -> None:
        raise RingBroken("used id out of range", 0, 0, 0)

    ring.set_used_notifications = broken  # type: ignore[method-assign]
    waiter.use(None)
    assert waiter.mode == POLL


# --- For select -------------------------------------------------------------------------------------------------------


def test_in_adaptive_mode_the_device_interrupts_only_between_arm_and_disarm() -> None:
    ring = PaperRing()
    line = FakeInterrupts(1).open(0)
    assert line is not None
    waiter = waiter_on(ring, line, ADAPTIVE)
    assert not waiter.arm()
    line.fire()
    assert waiter.fileno() == line.fileno()
    waiter.disarm()
    assert (ring.asked, waiter.interrupts) == ([False, False, True, False], 1)
    assert not line.take()
    ring.completes_at = 0
    assert waiter.arm(), "what is there already is told at once"
    line.close()


def test_the_modes_are_what_targets_offer() -> None:
    assert MODES == (POLL, IRQ, ADAPTIVE) == ("poll", "irq", "adaptive")
