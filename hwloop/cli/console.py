"""`hwloop console`."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from hwloop.cli.common import open_device, target_argument
from hwloop.deadline import Deadline

if TYPE_CHECKING:
    from hwloop.device.console import VirtioConsole
    from hwloop.device.console_port import ConsolePort

ESCAPE = b"\x1d"
"""Ctrl-], which ends a conversation on a terminal."""
_TICK_SECONDS = 0.01
_CHUNK = 4096


@click.command("console")
@target_argument
@click.option("--port", "which", metavar="N|NAME", help="The port, by number or name, instead of the console port.")
@click.option("--list-ports", is_flag=True, help="Show the ports of the device, and nothing else.")
@click.option("--send", "text", metavar="TEXT", help="Send TEXT as it is, instead of standard input.")
@click.option("--expect", "expected", metavar="TEXT", help="End as soon as TEXT has come; status 5 when it does not.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS",
    help="How long to wait for what is expected, and for the device to take what is sent.",
)  # fmt: skip
@click.option(
    "--drain", type=click.FloatRange(min=0), default=0.5, show_default=True, metavar="SECONDS",
    help="How long to go on receiving at the end of what is sent.",
)  # fmt: skip
def command(
    target: str,
    which: str | None,
    list_ports: bool,
    text: str | None,
    expected: str | None,
    timeout: float,
    drain: float,
) -> None:
    """Talk to a console device: standard input goes to it, and what it says to standard output.

    On a terminal, keys go to the device as they are pressed, and Ctrl-] ends. From a pipe or a file, everything is
    sent, and for a moment what comes back is received.
    """
    from hwloop.device.console import VirtioConsole

    with open_device(target, VirtioConsole, "a console") as console:
        if list_ports:
            _print_ports(console)
            return
        port = console.find_port(int(which) if which and which.isdecimal() else which)
        if text is not None:
            port.send(os.fsencode(text), timeout)
        if expected is not None:
            _receive_until(port, os.fsencode(expected), timeout)
        elif text is not None:
            _receive_for(port, drain)
        elif sys.stdin.isatty():
            _converse_on_terminal(port, target)
        else:
            _converse(port, sys.stdin.fileno(), timeout)
            _receive_for(port, drain)


def _print_ports(console: VirtioConsole) -> None:
    from hwloop.cli.table import print_table

    rows = [
        [str(port.id), port.name or "-", "console" if port.is_console else "port", "open" if port.host_open else "-"]
        for _, port in sorted(console.read_ports().items())
    ]
    print_table(["port", "name", "kind", "other end"], rows)


def _receive_until(port: ConsolePort, expected: bytes, seconds: float) -> None:
    deadline, seen = Deadline(seconds), b""
    while expected not in seen:
        data = port.receive(_CHUNK, min(deadline.remaining(), 1.0))
        _show(data)
        seen = seen[-len(expected) :] + data
        if not data and deadline.expired():
            raise deadline.error(f"{os.fsdecode(expected)!r} from port {port.id}")


def _receive_for(port: ConsolePort, seconds: float) -> None:
    deadline = Deadline(seconds)
    while data := port.receive(_CHUNK, deadline.remaining()):
        _show(data)
        if deadline.expired():
            return


def _converse_on_terminal(port: ConsolePort, target: str) -> None:
    click.echo(f"connected to port {port.id} of {target}; Ctrl-] ends", err=True)
    with _raw_terminal(sys.stdin.fileno()):
        _converse(port, sys.stdin.fileno(), 2.0, until=ESCAPE)
    click.echo("", err=True)


def _converse(port: ConsolePort, source: int, seconds: float, until: bytes | None = None) -> None:
    """Send what comes from a descriptor and show what the port says, to the end of the former or the byte `until`."""
    busy = False
    while True:
        _show(port.receive(_CHUNK, 0 if busy else _TICK_SECONDS))
        busy = bool(select.select([source], [], [], 0)[0])
        if not busy:
            continue
        data = os.read(source, _CHUNK)
        keys, end, _ = data.partition(until) if until else (data, b"", b"")
        port.send(keys, seconds)
        if end or not data:
            return


def _show(data: bytes) -> None:
    if data:
        sys.stdout.flush()
        out = memoryview(data)
        while out:
            out = out[os.write(sys.stdout.fileno(), out) :]


@contextmanager
def _raw_terminal(descriptor: int) -> Iterator[None]:
    """Keys come one by one and unchanged, Ctrl-C too. The terminal is as before at the end, however that comes."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        # A terminal that is gone needs nothing.
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
