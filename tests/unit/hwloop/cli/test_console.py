"""`hwloop console`: from standard input to the other end of a port and back."""

from __future__ import annotations

import os
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator

import pytest

from cython_ring import Chain
from hwloop.cli.main import run
from hwloop.device.fake_console import FakeConsole
from hwloop.hal.fake import FakeHal
from hwloop.spec import ConsoleFeature
from hwloop.transport.fake_device import MODERN
from tests.timing import SLACK
from tests.unit.hwloop.cli.fake_place import TARGET, put


class Echo(FakeConsole):
    """Answers with what it was sent, in capitals, and to the port that sent it."""

    def serve(self, chain: Chain) -> int:
        number = 0 if self._serving == 1 else (self._serving - 3) // 2
        done = super().serve(chain)
        if self._serving != 3:
            self.type(chain.read().upper(), number)
        return done


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Iterator[Echo]:
    device = Echo(FakeHal())
    put(device, monkeypatch)
    yield device
    assert device.hal.leaks() == []


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> Iterator[Echo]:
    device = Echo(FakeHal(), features=int(MODERN | ConsoleFeature.MULTIPORT))
    device.add_port(0, is_console=True)
    device.add_port(1, b"org.test", host_open=False)
    put(device, monkeypatch)
    yield device
    assert device.hal.leaks() == []


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """What the command finds on a pipe at its standard input."""
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading, "r"))
    threading.Thread(target=lambda: (os.write(writing, data), os.close(writing))).start()


# --- Pipes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"hello\n", b"\x1d\x03 are bytes like others", b"x" * 50_000])
def test_a_pipe_is_sent_whole_and_what_comes_back_is_shown(
    console: Echo, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], data: bytes
) -> None:
    feed(monkeypatch, data)
    assert run(["console", TARGET, "--drain", "0.05"]) == 0
    assert console.ports[0].output == data
    assert capfdbinary.readouterr() == (data.upper(), b"")


def test_what_comes_after_the_end_of_the_input_is_waited_for(
    console: Echo, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    feed(monkeypatch, b"")
    threading.Timer(0.1, console.type, (b"later",)).start()
    assert run(["console", TARGET, "--drain", "0.4"]) == 0
    assert capfdbinary.readouterr().out == b"later"


def test_a_device_that_never_stops_talking_does_not_keep_us(
    console: Echo, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    feed(monkeypatch, b"go")
    serve = console.serve

    def serve_and_chatter(chain: Chain) -> int:
        for _ in range(20_000):
            console.type(b"chatter " * 100)
        return serve(chain)

    monkeypatch.setattr(console, "serve", serve_and_chatter)
    started = time.monotonic()
    assert run(["console", TARGET, "--drain", "0.1"]) == 0
    assert time.monotonic() - started < SLACK
    said = capfdbinary.readouterr().out
    assert said.startswith(b"chatter chatter")
    assert len(said) < 20_000 * 800


# --- For scripts ------------------------------------------------------------------------------------------------------


def test_a_text_is_sent_instead_of_standard_input(console: Echo, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["console", TARGET, "--send", "grüße", "--drain", "0.01"]) == 0
    assert console.ports[0].output == "grüße".encode()
    assert capfdbinary.readouterr().out == "grüße".encode().upper()


def test_the_command_ends_as_soon_as_what_is_expected_came(
    console: Echo, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    started = time.monotonic()
    assert run(["console", TARGET, "--send", "login: root", "--expect", "ROOT", "--timeout", "30"]) == 0
    assert time.monotonic() - started < SLACK
    assert capfdbinary.readouterr().out == b"LOGIN: ROOT"


def test_a_text_that_comes_in_pieces_is_found(console: Echo) -> None:
    def drip() -> None:
        for byte in b"....login: ":
            console.type(bytes([byte]))
            time.sleep(0.005)

    threading.Timer(0.05, drip).start()
    assert run(["console", TARGET, "--expect", "login:", "--timeout", "10"]) == 0


@pytest.mark.parametrize("talks", [False, True])
def test_what_does_not_come_in_time_is_exit_status_5(
    console: Echo, capfd: pytest.CaptureFixture[str], talks: bool
) -> None:
    stop = threading.Event()
    talker = threading.Thread(target=_talk, args=(console, stop))
    if talks:
        talker.start()
    assert run(["console", TARGET, "--expect", "login:", "--timeout", "0.1"]) == 5
    stop.set()
    assert "timed out after 0.1 s waiting for 'login:' from port 0" in capfd.readouterr().err
    if talks:
        talker.join(5)


def _talk(console: Echo, stop: threading.Event) -> None:
    while not stop.wait(0.002):
        console.type(b"nothing of interest\n")


def test_a_device_that_takes_nothing_is_exit_status_5(console: Echo, capsys: pytest.CaptureFixture[str]) -> None:
    console.hold = True
    assert run(["console", TARGET, "--send", "x", "--timeout", "0.05"]) == 5
    assert "waiting for port 0 to take 1 bytes; is somebody reading at the other end?" in capsys.readouterr().err


# --- Ports ------------------------------------------------------------------------------------------------------------


def test_the_ports_are_listed(several: Echo, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["console", TARGET, "--list-ports"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "port  name      kind     other end",
        "0     -         console  open",
        "1     org.test  port     -",
    ]


@pytest.mark.parametrize("which", ["1", "org.test"])
def test_a_port_is_chosen_by_number_or_name(several: Echo, which: str) -> None:
    assert run(["console", TARGET, "--port", which, "--send", "here", "--expect", "HERE"]) == 0
    assert several.ports[1].output == b"here"
    assert several.ports[0].output == b""


def test_a_port_that_is_not_there_is_exit_status_5_and_the_others_are_named(
    several: Echo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwloop.device.console import VirtioConsole

    monkeypatch.setattr(VirtioConsole.find_port, "__defaults__", (None, 0.05))
    assert run(["console", TARGET, "--port", "org.other", "--send", "x"]) == 5
    assert "port 'org.other'; the device has these ports: 0, 1 org.test" in capsys.readouterr().err


# --- A terminal -------------------------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal at standard input; `keys` presses them."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[tty.LFLAG] & (termios.ICANON | termios.ISIG | termios.ECHO)

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def once_raw(self, then: Callable[[], None]) -> None:
        def wait() -> None:
            while not self.is_raw():
                time.sleep(0.002)
            then()

        threading.Thread(target=wait).start()

    def keys(self, keys: bytes) -> None:
        os.write(self.master, keys)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdin", os.fdopen(terminal.slave, "r", closefd=False))
    yield terminal
    os.close(terminal.master)
    os.close(terminal.slave)


def test_keys_go_to_the_device_one_by_one_until_the_escape(
    console: Echo, terminal: Terminal, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    terminal.once_raw(lambda: terminal.keys(b"ls\r\x03\x04\x1a and then\x1d not this"))
    assert run(["console", TARGET]) == 0
    assert console.ports[0].output == b"ls\r\x03\x04\x1a and then"
    assert terminal.is_as_before()
    assert b"connected to port 0 of fake:1M; Ctrl-] ends" in capfdbinary.readouterr().err


def test_what_the_device_says_is_shown_as_it_comes(
    console: Echo, terminal: Terminal, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def converse() -> None:
        console.type(b"\x1b[1mlogin: ")
        time.sleep(0.5)
        terminal.keys(b"\x1d")

    terminal.once_raw(converse)
    assert run(["console", TARGET]) == 0
    assert capfdbinary.readouterr().out == b"\x1b[1mlogin: "


def test_the_terminal_is_restored_when_the_device_fails(console: Echo, terminal: Terminal) -> None:
    def fail() -> None:
        console.faults.gone = True

    terminal.once_raw(fail)
    assert run(["console", TARGET]) == 5
    assert terminal.is_as_before()


def test_the_terminal_is_restored_when_a_signal_ends_us(
    console: Echo, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    from hwloop.signals import raise_interrupted

    before = signal.signal(signal.SIGTERM, raise_interrupted)
    try:
        terminal.once_raw(lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert run(["console", TARGET]) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert terminal.is_as_before()


def test_scripts_leave_the_terminal_alone(console: Echo, terminal: Terminal) -> None:
    assert run(["console", TARGET, "--send", "x", "--expect", "X"]) == 0
    assert terminal.is_as_before()
