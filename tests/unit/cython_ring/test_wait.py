from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from cython_ring import Loopback, RingUsageError
from tests.timing import SLACK

MS = 1_000_000


class Alarm(Exception):
    pass


@contextmanager
def alarm_after(seconds: float) -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def published(size: int = 8) -> Loopback:
    loop = Loopback(size)
    loop.driver.add([(0x1000, 16)], [(0x2000, 512)], "token")
    loop.driver.publish()
    return loop


@pytest.mark.parametrize("spin_ns", [0, 1 * MS, 100 * MS])
def test_wait_ends_at_its_deadline(spin_ns: int) -> None:
    loop = published()
    start = time.monotonic()
    assert loop.driver.wait(30 * MS, spin_ns) is False
    assert 0.03 <= time.monotonic() - start < SLACK


@pytest.mark.parametrize("timeout_ns", [0, -1, -(1 << 62)])
def test_wait_without_time_only_looks(timeout_ns: int) -> None:
    loop = published()
    assert loop.driver.wait(timeout_ns, 0) is False
    assert loop.device.serve(1, 0) == 1
    assert loop.driver.wait(timeout_ns, 0) is True


def test_a_longest_timeout_is_not_a_past_one() -> None:
    loop = published()
    timer = threading.Timer(0.03, loop.device.serve, (1, 0))
    timer.start()
    assert loop.driver.wait((1 << 63) - 1, 0) is True
    timer.join()


@pytest.mark.parametrize("spin_ns", [0, 1000 * MS])
def test_wait_lets_other_threads_run_and_sees_what_they_complete(spin_ns: int) -> None:
    loop = published()
    timer = threading.Timer(0.03, loop.device.serve, (1, 0))
    start = time.monotonic()
    timer.start()
    assert loop.driver.wait(60_000 * MS, spin_ns) is True
    assert time.monotonic() - start < SLACK
    timer.join()
    assert loop.driver.pop() == ("token", 512)


@pytest.mark.parametrize("spin_ns", [0, 60_000 * MS])
def test_a_signal_handler_runs_during_wait_and_its_exception_ends_it(spin_ns: int) -> None:
    loop = published()
    start = time.monotonic()
    with alarm_after(0.02), pytest.raises(Alarm):
        loop.driver.wait(60_000 * MS, spin_ns)
    assert time.monotonic() - start < SLACK
    assert loop.driver.pop() is None


def test_wait_leaves_a_broken_ring_to_pop() -> None:
    loop = published()
    loop.device.set_used_idx(5)
    assert loop.driver.wait(0, 0) is True


def test_use_from_a_second_thread_is_noticed_and_harmless() -> None:
    loop = published()
    results: list[bool] = []
    waiter = threading.Thread(target=lambda: results.append(loop.driver.wait(60_000 * MS, 0)))
    waiter.start()
    _pop_until_refused(loop)
    with pytest.raises(RingUsageError, match="another thread"):
        loop.driver.close()
    assert loop.driver.dump()["published_idx"] == 1
    loop.device.serve(1, 0)
    waiter.join(10)
    assert results == [True]
    assert loop.driver.pop() == ("token", 512)


def _pop_until_refused(loop: Loopback) -> None:
    # The other thread may take a moment to begin its wait; until then pop() finds nothing.
    deadline = time.monotonic() + SLACK
    while time.monotonic() < deadline:
        try:
            assert loop.driver.pop() is None
        except RingUsageError:
            break
        time.sleep(0.001)
    with pytest.raises(RingUsageError, match="two threads"):
        loop.driver.pop()
