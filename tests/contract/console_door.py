"""A door to a console device, with the other end of its ports in the test's hands."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from hwloop.device.console import VirtioConsole
from hwloop.device.fake_console import FakeConsole
from hwloop.hal.fake import FakeHal
from hwloop.spec import ConsoleFeature, Feature
from hwloop.transport.fake_device import MODERN
from tests.contract.machines import MACHINES, WITH_LEGACY

NAME = "org.hwloop.test"
"""The name of port 1, of a device with several ports; port 0 is a console."""
SECONDS = 5


class ConsoleDoor(ABC):
    """Opens one console."""

    def open(self, *, multiport: bool = False) -> VirtioConsole:
        """A driver on a new console: with one port, or with a console port 0 and a port 1 called `NAME`."""
        self.make(multiport)
        return self.reopen()

    @abstractmethod
    def make(self, multiport: bool) -> None:
        """Make the console."""

    @abstractmethod
    def reopen(self) -> VirtioConsole:
        """Another driver on the same console, after the one before was closed."""

    @abstractmethod
    def type(self, data: bytes, port: int = 0) -> None:
        """Give input to the other end of a port."""

    @abstractmethod
    def output(self, port: int = 0) -> bytes:
        """Everything that has come to the other end of a port, also what came before."""

    def wait_for_output(self, length: int, port: int = 0) -> bytes:
        """As `output`, once there is so much: a device need not have passed on what it has taken."""
        end = time.monotonic() + SECONDS
        while len(self.output(port)) < length and time.monotonic() < end:
            time.sleep(0.001)
        return self.output(port)

    def close(self) -> None:  # noqa: B027
        """Called at the end of the test: assert that nothing is left over."""


class FakeConsoleDoor(ConsoleDoor):
    """A `FakeConsole` in process, behind one of `MACHINES`."""

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self._hals: list[FakeHal] = []

    def make(self, multiport: bool) -> None:
        features = MODERN | ConsoleFeature.SIZE | ConsoleFeature.EMERG_WRITE
        features |= ConsoleFeature.MULTIPORT if multiport else 0
        features |= Feature.ANY_LAYOUT if self._machine in WITH_LEGACY else 0
        self.device = FakeConsole(FakeHal(), features=features)
        if multiport:
            self.device.add_port(0, is_console=True)
            self.device.add_port(1, NAME.encode())

    def reopen(self) -> VirtioConsole:
        self._hals.append(FakeHal())
        self.device.hal = self._hals[-1]
        return VirtioConsole(MACHINES[self._machine](self._hals[-1], self.device), self._hals[-1], request_seconds=1)

    def type(self, data: bytes, port: int = 0) -> None:
        self.device.type(data, port)

    def output(self, port: int = 0) -> bytes:
        return bytes(self.device.ports[port].output)

    def close(self) -> None:
        assert [leak for hal in self._hals for leak in hal.leaks()] == []
