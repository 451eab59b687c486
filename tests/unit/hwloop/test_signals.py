"""Signals wait until a device is taken or given back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from hwloop.signals import Interrupted, shield, unwind_on_signals

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers of the test runner, put back."""
    earlier = {signum: signal.getsignal(signum) for signum in ALL}
    unwind_on_signals()
    yield
    for signum, handler in earlier.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", ALL)
def test_a_signal_unwinds_as_an_exception_that_knows_its_exit_status(signum: signal.Signals) -> None:
    with pytest.raises(Interrupted, match=f"ended by {signum.name}") as caught:
        signal.raise_signal(signum)
    assert caught.value.exit_code == 128 + signum
    assert not isinstance(caught.value, Exception), "no `except Exception` may catch it"


def shielded(signum: int, then: Callable[[], object]) -> None:
    with shield():
        signal.raise_signal(signum)
        then()


@pytest.mark.parametrize("signum", ALL)
def test_a_signal_in_a_shield_is_raised_at_its_end(signum: signal.Signals) -> None:
    steps: list[str] = []
    with pytest.raises(Interrupted) as caught:
        shielded(signum, lambda: steps.append("after the signal"))
    assert steps == ["after the signal"]
    assert caught.value.signum == signum


def test_nested_shields_hold_until_the_outermost_ends() -> None:
    steps: list[str] = []

    def nested() -> None:
        with shield():
            shielded(signal.SIGTERM, lambda: steps.append("inner"))
            steps.append("outer")

    with pytest.raises(Interrupted):
        nested()
    assert steps == ["inner", "outer"]


def test_a_signal_is_not_forgotten_when_the_block_fails() -> None:
    def fail() -> None:
        raise OSError("and it failed, too")

    with pytest.raises(Interrupted) as caught:
        shielded(signal.SIGINT, fail)
    assert isinstance(caught.value.__context__, OSError)


def test_without_a_signal_the_blocks_own_error_is_raised_and_the_handlers_are_back() -> None:
    before = [signal.getsignal(signum) for signum in ALL]
    with pytest.raises(OSError, match="it failed"), shield():
        raise OSError("it failed")
    assert [signal.getsignal(signum) for signum in ALL] == before


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with shield():
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_shield_in_another_thread_does_nothing_and_is_no_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with shield():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_real_signal_from_outside_waits_too() -> None:
    script = """
import os, signal, sys, time
from hwloop.signals import shield, unwind_on_signals, Interrupted
unwind_on_signals()
try:
    with shield():
        os.kill(os.getppid(), 0)
        print("shielded", flush=True)
        sys.stdin.readline()
        print("unharmed", flush=True)
except Interrupted as ending:
    sys.exit(ending.exit_code)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"shielded\n"
        os.kill(process.pid, signal.SIGTERM)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"unharmed\n"
        assert process.wait(10) == 143


def test_a_signal_while_the_handlers_are_put_back_leaves_none_of_ours_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(signum) for signum in ALL]
    install, calls = signal.signal, 0

    def interrupted_install(signum: signal.Signals, handler: signal.Handlers) -> object:
        nonlocal calls
        calls += 1
        earlier = install(signum, handler)
        if calls == len(ALL) + 1:
            signal.raise_signal(ALL[0])  # The first of the handlers is back, and acts.
        return earlier

    monkeypatch.setattr("hwloop.signals.signal.signal", interrupted_install)
    with pytest.raises(Interrupted), shield():
        pass
    assert [signal.getsignal(signum) for signum in ALL] == before


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_signal_while_the_shield_goes_up_leaves_no_handler_behind(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(signum) for signum in ALL]
    install, calls = signal.signal, 0

    def interrupted_install(signum: signal.Signals, handler: signal.Handlers) -> object:
        nonlocal calls
        calls += 1
        earlier = install(signum, handler)
        if calls == step:
            signal.raise_signal(ALL[-1])
        return earlier

    monkeypatch.setattr("hwloop.signals.signal.signal", interrupted_install)
    with pytest.raises(Interrupted), shield():
        pass
    assert [signal.getsignal(signum) for signum in ALL] == before
