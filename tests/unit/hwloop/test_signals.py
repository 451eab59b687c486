"""Signals wait until a device is taken or given back."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwloop.signals import Input, Interrupted, shield, unwind_on_signals
from tests.timing import SLACK

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


# --- A wait without end -----------------------------------------------------------------------------------------------


def test_a_signal_that_came_just_before_the_wait_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python handler has not run by then: as when it comes between the last look and the system call."""
    reading, writing = os.pipe()
    poll = select.poll

    class Late:
        """Poll, of which a signal comes in C, and Python has not looked when it begins to wait."""

        def __init__(self) -> None:
            self.inner = poll()
            self.register = self.inner.register

        def poll(self) -> list[tuple[int, int]]:
            os.write(told, b"\x0f")
            found = self.inner.poll(60_000)
            signal.raise_signal(signal.SIGTERM)
            return found

    told = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(told)
    monkeypatch.setattr(select, "poll", Late)
    began = time.monotonic()
    with pytest.raises(Interrupted):
        Input(reading).readinto(bytearray(1))
    assert time.monotonic() - began < SLACK
    os.close(reading)
    os.close(writing)


def test_signals_that_were_dealt_with_do_not_end_a_wait() -> None:
    reading, writing = os.pipe()
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    threading.Timer(0.05, os.write, (writing, b"here")).start()
    buffer = bytearray(16)
    assert Input(reading).readinto(buffer) == 4
    assert buffer[:4] == b"here"
    os.close(writing)
    assert Input(reading).readinto(buffer) == 0
    os.close(reading)


def test_a_file_is_read_from_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with open(tmp_path / "file", "rb", buffering=0) as file:
        file.seek(4)
        given = Input(file.fileno())
        assert given.seekable()
        assert given.tell() == 4
        assert io.BufferedReader(given).read() == b"456789"


def test_a_pipe_has_no_place_and_one_that_does_not_wait_has_nothing_yet() -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    given = Input(reading)
    assert not given.seekable()
    os.write(writing, b"x")
    os.set_blocking(writing, True)
    assert given.read(1) == b"x"
    os.close(writing)
    os.close(reading)


def test_a_child_has_a_wakeup_of_its_own() -> None:
    assert signal.set_wakeup_fd(told := signal.set_wakeup_fd(-1)) == -1
    assert told >= 0
    child = os.fork()
    if not child:
        os._exit(0 if signal.set_wakeup_fd(-1) == -1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
