"""One machine: a QEMU process, its memory, and the sockets to it."""

from __future__ import annotations

import os
import socket
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack

from hwloop.errors import DeadlineExpired, DeviceLost, HwloopError, RefusedError, SetupError
from hwloop.owner import Owner
from hwloop.qtest.client import ANSWER_SECONDS, QtestClient
from hwloop.qtest.machine import MachineType
from hwloop.qtest.process import QemuProcess
from hwloop.qtest.qmp import QmpClient
from hwloop.qtest.ram import GuestRam
from hwloop.signals import shield

RAM_BYTES = 256 << 20
"""Memory is taken from the host only where it is touched."""
START_SECONDS = 20.0
"""How long QEMU may take until it answers for the first time."""

_LOCKED = "Failed to get"


class Machine(Owner):
    """A machine that is driven through `qtest`: what kind it is, and its memory."""

    type: MachineType
    qtest: QtestClient
    ram: GuestRam

    @abstractmethod
    def find_controller(self, kind: str, index: int) -> str:
        """The path of the interrupt controller number `index` of a QOM type; it has no name of its own.

        Raises SetupError when the machine has none, Unsupported where QEMU cannot be asked.
        """


class QemuMachine(Machine):
    """Starts a machine with `arguments` in addition, and waits until its qtest server answers.

    `qtest`, `qmp`, `ram` and `process` are its parts; they are closed with it. `pass_fds` are inherited by QEMU under
    the same numbers. `accel` is QEMU's accelerator, `answer_seconds` how long it may take to make a bus access. Raises
    SetupError with QEMU's own words, RefusedError when an image is locked by somebody else.
    """

    def __init__(
        self,
        machine: MachineType,
        arguments: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        ram_bytes: int = RAM_BYTES,
        accel: str = "tcg",
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.type = machine
        with shield(), ExitStack() as stack:
            self.ram = stack.enter_context(GuestRam(machine.ram_base, ram_bytes))
            firmware = _file_of(machine.firmware)
            (qtest, theirs_qtest), (qmp, theirs_qmp) = socket.socketpair(), socket.socketpair()
            for ours in (qtest, qmp):
                stack.callback(ours.close)
            fds = [self.ram.fd, firmware, theirs_qtest.fileno(), theirs_qmp.fileno()]
            try:
                self.process = QemuProcess(
                    machine.program,
                    [*_arguments(machine, accel, ram_bytes, *fds), *arguments],
                    pass_fds=[*fds, *pass_fds],
                    package=machine.package,
                )
            finally:
                os.close(firmware)
                theirs_qtest.close()
                theirs_qmp.close()
            stack.push(self.process)
            self.qmp = stack.enter_context(QmpClient(qmp, explain=self.process.explain))
            self.qtest = stack.enter_context(QtestClient(qtest, seconds=answer_seconds, explain=self.process.explain))
            self._resources = stack.pop_all()
        try:
            self._wait_for_start()
        except BaseException:
            self.close()
            raise

    def find_controller(self, kind: str, index: int) -> str:
        return controller_path(self.qmp, kind, index)

    def close(self) -> None:
        """End QEMU and free the memory. Idempotent."""
        with shield():
            self._resources.close()

    def _wait_for_start(self) -> None:
        try:
            self.qtest.hello(START_SECONDS)
        except (DeviceLost, DeadlineExpired) as error:
            raise self._refusal(error) from None

    def _refusal(self, error: HwloopError) -> HwloopError:
        words = self.process.explain(0) or error.problem
        if _LOCKED in words:
            return RefusedError(words, remedy="close the image there, or make a copy")
        return SetupError(words)


def controller_path(qmp: QmpClient, kind: str, index: int) -> str:
    """What `Machine.find_controller` gives, asked of QMP."""
    found = []
    for folder in ("/machine", "/machine/unattached"):
        parts = qmp.execute("qom-list", path=folder)
        names = [part["name"] for part in parts if part["type"] == f"child<{kind}>"]
        found += [f"{folder}/{name}" for name in sorted(names, key=_natural)]
    if index >= len(found):
        raise SetupError(f"the machine has no {kind} number {index}", remedy="poll: leave wait=irq out")
    return found[index]


def _arguments(
    machine: MachineType, accel: str, ram: int, ram_fd: int, firmware: int, qtest: int, qmp: int
) -> list[str]:
    memory = f"memory-backend-file,id=ram0,size={ram},mem-path=/proc/self/fd/{ram_fd},share=on"
    return [
        "-nodefaults", "-no-user-config", "-display", "none",
        "-M", ",".join((machine.board, "memory-backend=ram0", *machine.options)), "-accel", accel, *machine.arguments,
        "-m", f"size={ram // (1 << 20)}M", "-object", memory,
        "-bios", f"/proc/self/fd/{firmware}",
        "-chardev", f"socket,id=qtest,fd={qtest}", "-object", "qtest,id=qtest0,chardev=qtest,log=none",
        "-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control",
    ]  # fmt: skip


def _file_of(content: bytes) -> int:
    fd = os.memfd_create("firmware")
    os.write(fd, content)
    return fd


def _natural(name: str) -> tuple[int, str]:
    """`device[10]` behind `device[9]`."""
    digits = "".join(filter(str.isdigit, name))
    return int(digits or 0), name
