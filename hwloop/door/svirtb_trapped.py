"""svirtb at a page of registers that are trapped: `svirtb:DISK.img?trapped=on`.

The device model is a process of its own; QEMU's `x-pci-proxy-dev` sends it every access to BAR 0, which is put at
0xcafe0000, and shares the machine's memory with it. No guest runs: we access the registers through qtest.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from hwloop.device.svirtb_protocol import SVIRTB_BASE
from hwloop.device.svirtb_server import DEVICE_ID, VENDOR_ID
from hwloop.errors import SetupError
from hwloop.hal.base import Hal
from hwloop.hal.qtest import QtestHal
from hwloop.owner import Owner
from hwloop.qtest.machine import MACHINES
from hwloop.qtest.qemu import QemuMachine
from pci import CONFIG_PORT, Command, DeviceFunction, PciRoot, PortAccess

_END_SECONDS = 5.0
_MOST_TEXT = 4096
_SERVER = "hwloop.device.svirtb_server"


class DeviceProcess(Owner):
    """The device model on `image`, at one end of a link; `theirs` is the end for QEMU.

    It ends when QEMU closes the link, or when `close` does. `complaints` says then what the driver did wrong.
    """

    def __init__(self, image: str, sector_size: int) -> None:
        ours, self.theirs = socket.socketpair()
        self._output = os.memfd_create("svirtb output")
        arguments = ["--fd", str(ours.fileno()), "--image", image, "--sector-size", str(sector_size)]
        with ours:
            # Its own session, so that Ctrl-C ends QEMU's link in order; -P keeps the user's folder out of its imports.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _SERVER, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[ours.fileno()],
                env=os.environ | {"PYTHONPATH": _import_path()},
                start_new_session=True,
            )
        self.complaints = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """Wait for its end; QEMU has to have closed the link. Idempotent."""
        self.theirs.close()
        if self._output < 0:
            return
        try:
            self._wait()
        finally:
            self.complaints = os.pread(self._output, _MOST_TEXT, 0).decode(errors="backslashreplace")
            os.close(self._output)
            self._output = -1

    def _wait(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
            return
        self._process.kill()
        self._process.wait()


class TrappedMachine(Owner):
    """A machine of QEMU whose one PCI function is the device, with its BAR at the address of the specification.

    Raises SetupError with the words of QEMU or of the device process.
    """

    def __init__(self, image: str, sector_size: int) -> None:
        with ExitStack() as stack:
            self.device = stack.enter_context(DeviceProcess(image, sector_size))
            link = self.device.theirs.fileno()
            try:
                arguments = ["-device", f"x-pci-proxy-dev,id=svirtb,fd={link}"]
                self.machine = stack.enter_context(QemuMachine(MACHINES["q35"], arguments, pass_fds=[link]))
                self.device.theirs.close()
                self._place_registers()
            except SetupError as error:
                stack.close()
                raise self._better(error) from None
            self._resources = stack.pop_all()

    def hal(self) -> Hal:
        """The memory and registers of the machine, for one driver."""
        return QtestHal(self.machine.qtest, self.machine.ram)

    def close(self) -> None:
        """End QEMU, and with it the device. Idempotent."""
        self._resources.close()

    def _better(self, error: SetupError) -> SetupError:
        """QEMU only knows that its device is gone; the device knows why."""
        return SetupError(f"{error.problem}; {self.device.complaints.strip()}") if self.device.complaints else error

    def _place_registers(self) -> None:
        with QtestHal(self.machine.qtest, self.machine.ram) as hal:
            root = PciRoot(PortAccess(hal.port_region(CONFIG_PORT, 8)))
            function = _find(root)
            root.set_bar_32(function, 0, SVIRTB_BASE)
            root.set_command(function, Command.MEMORY_SPACE | Command.BUS_MASTER)


def _find(root: PciRoot) -> DeviceFunction:
    for function, info in root.enumerate_bus(0):
        if (info.vendor_id, info.device_id) == (VENDOR_ID, DEVICE_ID):
            return function
    raise SetupError("QEMU shows no function for its x-pci-proxy-dev")


def _import_path() -> str:
    """Where the process finds this package, installed or not."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
