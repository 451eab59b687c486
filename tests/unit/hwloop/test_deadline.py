"""Waits end."""

from __future__ import annotations

import time

import pytest

from hwloop import deadline
from hwloop.deadline import Deadline, wait_until
from hwloop.errors import DeadlineExpired
from tests.timing import SLACK


class Clock:
    """CLOCK_MONOTONIC for a test: it moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += max(seconds, 1e-6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(deadline, "time", fake)
    return fake


def test_a_deadline_counts_down_to_zero_and_not_below(clock: Clock) -> None:
    end = Deadline(2.0)
    assert end.remaining() == 2.0
    clock.now += 1.5
    assert end.remaining() == pytest.approx(0.5)
    assert not end.expired()
    clock.now += 1.5
    assert end.remaining() == 0.0
    assert end.expired()


def test_a_condition_that_holds_costs_no_sleep(clock: Clock) -> None:
    wait_until(lambda: True, "nothing", 0.0)
    assert clock.naps == []


def test_a_condition_that_never_holds_is_given_up_at_the_deadline(clock: Clock) -> None:
    with pytest.raises(DeadlineExpired, match=r"timed out after 3 s waiting for rain .*; pray") as caught:
        wait_until(lambda: False, "rain", 3.0, remedy="pray", section="2.1")
    assert 1003 <= clock.now < 1003.01
    assert caught.value.section == "2.1"


def test_naps_begin_at_zero_and_stay_below_a_millisecond(clock: Clock) -> None:
    with pytest.raises(DeadlineExpired):
        wait_until(lambda: False, "rain", 0.1)
    assert clock.naps[0] == 0
    assert max(clock.naps) == 0.001
    assert clock.naps == sorted(clock.naps)


def test_one_last_look_is_taken_after_the_time_is_over(clock: Clock) -> None:
    looks = []

    def condition() -> bool:
        looks.append(clock.now)
        if len(looks) == 1:
            clock.now += 100  # Not scheduled for a while.
        return len(looks) == 2

    wait_until(condition, "rain", 1.0)
    assert len(looks) == 2


def test_what_the_condition_raises_ends_the_wait(clock: Clock) -> None:
    def condition() -> bool:
        raise KeyError("broken")

    with pytest.raises(KeyError):
        wait_until(condition, "rain", 1.0)


def test_the_real_clock_is_the_monotonic_one() -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExpired):
        wait_until(lambda: False, "rain", 0.02)
    assert 0.02 <= time.monotonic() - began < SLACK
