"""A machine whose QEMU somebody else has started, with a qtest server that listens and memory in a file."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

from hwloop.errors import DeadlineExpired, SetupError, Unsupported
from hwloop.qtest.client import QtestClient
from hwloop.qtest.machine import MachineType
from hwloop.qtest.qemu import Machine, controller_path
from hwloop.qtest.qmp import QmpClient
from hwloop.qtest.ram import GuestRam

ANSWER_SECONDS = 5.0

_LEAST = 4 << 20
_LARGEST_MAPPED = 2 << 30
"""A PC with more memory has a hole behind that, and the rest above 4 GiB."""


class AttachedMachine(Machine):
    """The machine behind the UNIX socket `qtest`, whose memory is the file `ram` from guest-physical `ram_base` on;
    `qmp` is the UNIX socket of its QMP server, which is needed for interrupts of MMIO machines only.

    What has been set up in the machine stays as it is, also when this is closed. Raises SetupError.
    """

    def __init__(
        self, machine: MachineType, qtest: Path, ram: Path, *, ram_base: int | None = None, qmp: Path | None = None
    ) -> None:
        self.type = machine
        self._qmp = qmp
        with ExitStack() as stack:
            self.ram = stack.enter_context(_map_ram(ram, machine.ram_base if ram_base is None else ram_base))
            self.qtest = stack.enter_context(QtestClient(_connect(qtest), seconds=ANSWER_SECONDS))
            try:
                self.qtest.hello(ANSWER_SECONDS)
            except DeadlineExpired as error:
                raise SetupError(
                    f"{qtest} takes connections and does not answer: QEMU serves one client at a time, or is stopped",
                    errno=error.errno,
                    remedy=f"find out who else uses it: ss -xp | grep {qtest}",
                ) from error
            self._resources = stack.pop_all()

    def find_controller(self, kind: str, index: int) -> str:
        if self._qmp is None:
            raise Unsupported(
                f"where interrupts arrive in a {self.type.name} has to be asked of QMP",
                remedy="add qmp=SOCKET, or leave wait=irq out",
            )
        with QmpClient(_connect(self._qmp), seconds=ANSWER_SECONDS) as qmp:
            return controller_path(qmp, kind, index)

    def close(self) -> None:
        """Hang up and unmap the memory; QEMU goes on. Idempotent."""
        self._resources.close()


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    # Or a connection to a socket whose backlog is full would wait for ever.
    sock.settimeout(ANSWER_SECONDS)
    try:
        sock.connect(os.fspath(path))
    except OSError as error:
        sock.close()
        if error.errno is None:  # a path that is too long, which Python finds itself, or a timeout
            raise SetupError(f"cannot connect to {path}: {error}", remedy="use a shorter path") from error
        raise SetupError.refused(f"cannot connect to {path}", error, remedy="does QEMU listen there?") from error
    return sock


def _map_ram(path: Path, base: int) -> GuestRam:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SetupError.refused(f"cannot open the memory of the machine, {path}", error, remedy="ram=FILE") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size < _LEAST:
            raise SetupError(
                f"{path} is not the memory of a machine: {status.st_size} bytes",
                remedy="give the mem-path of a memory-backend-file with share=on",
            )
        return GuestRam(base, min(status.st_size, _LARGEST_MAPPED), fd)
    finally:
        os.close(fd)
