"""A door to a console device, with the other end of its ports in the test's hands."""

from __future__ import annotations

import socket
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress

from hwloop.device.console import VirtioConsole
from hwloop.device.fake_console import FakeConsole
from hwloop.door.qemu import QemuPlace
from hwloop.hal.fake import FakeHal
from hwloop.spec import ConsoleFeature, Feature
from hwloop.target import Target
from hwloop.transport.fake_device import MODERN
from tests.contract.machines import MACHINES, WITH_LEGACY
from tests.contract.qemu_machines import opened, qemu_target

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

    @abstractmethod
    def emergency(self) -> bytes:
        """What came by emergency writes and is told apart from other output, or with it where it is not."""

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

    def emergency(self) -> bytes:
        return bytes(self.device.emergency)

    def close(self) -> None:
        assert [leak for hal in self._hals for leak in hal.leaks()] == []


class QemuConsoleDoor(ConsoleDoor):
    """QEMU's console, whose ports are sockets of ours."""

    def __init__(self, way: str) -> None:
        self._way = way
        self._resources = ExitStack()
        self._ends: list[socket.socket] = []
        self._output = [bytearray(), bytearray()]

    def make(self, multiport: bool) -> None:
        theirs = []
        for _ in range(2 if multiport else 1):
            ours, other = socket.socketpair()
            self._ends.append(self._resources.enter_context(ours))
            theirs.append(other)
        self._place = QemuConsolePlace(qemu_target(self._way, "console"), [end.fileno() for end in theirs])
        self._machine = self._place.open_machine(pass_fds=self._place.fds)
        self._resources.push(self._machine)
        for end in theirs:
            end.close()

    def reopen(self) -> VirtioConsole:
        return self._resources.enter_context(opened(self._place, self._machine, VirtioConsole))

    def type(self, data: bytes, port: int = 0) -> None:
        self._ends[port].sendall(data)

    def output(self, port: int = 0) -> bytes:
        with suppress(BlockingIOError):
            while data := self._ends[port].recv(1 << 16, socket.MSG_DONTWAIT):
                self._output[port] += data
        return bytes(self._output[port])

    def emergency(self) -> bytes:
        return self.wait_for_output(1)

    def close(self) -> None:
        self._resources.close()


class QemuConsolePlace(QemuPlace):
    """A console with a port for each of `fds`: the first a console, the second called `NAME`."""

    def __init__(self, target: Target, fds: list[int]) -> None:
        super().__init__(target)
        self.fds = fds

    def arguments(self) -> list[str]:
        several = len(self.fds) > 1
        arguments = [*self._bus_arguments()]
        for number, fd in enumerate(self.fds):
            arguments += ["-chardev", f"socket,id=end{number},fd={fd}"]
        arguments += ["-device", self.device_argument("virtio-serial", max_ports=None if several else "1")]
        arguments += ["-device", "virtconsole,chardev=end0"]
        return [*arguments, "-device", f"virtserialport,chardev=end1,name={NAME}"] if several else arguments
