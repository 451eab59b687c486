"""A device of a QEMU that the user has started: `qtest:/tmp/qtest.sock?ram=/dev/shm/guest`.

Its memory has to be a file that both can map, and nothing else may run in it:

    qemu-system-x86_64 -M q35,memory-backend=ram0 -accel tcg -S -display none -nodefaults -m 256M \\
        -object memory-backend-file,id=ram0,size=256M,mem-path=/dev/shm/guest,share=on \\
        -qtest unix:/tmp/qtest.sock,server=on,wait=off -qtest-log none \\
        -drive if=none,id=d0,file=disk.img,format=raw -device virtio-blk-pci,drive=d0

The machine `virt-pci` is QEMU's `-M virt,highmem=off`, with the device on its PCI bus.

With `-S` the processor never starts; an entropy device then never answers, and needs firmware that halts instead.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from hwloop.door import guestless
from hwloop.door.base import QUEUE_OPTIONS, WAIT, Opened, Place, check_options, parse_number
from hwloop.errors import InvalidParam
from hwloop.qtest.attached import AttachedMachine
from hwloop.qtest.machine import MACHINES
from hwloop.signals import shield
from hwloop.target import Target
from udev import Sysfs

OPTIONS = (
    {
        "ram": None,
        "ram-base": None,
        "machine": tuple(MACHINES),
        "qmp": None,
        "at": None,
        "mode": ("modern", "legacy"),
    }
    | WAIT
    | QUEUE_OPTIONS
)


class QtestPlace(Place):
    """A device of a machine that runs: the first, or the one at the PCI function or slot that the option `at` names."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._options = target.options
        self._type = MACHINES[self._options.get("machine", "q35")]
        if "ram" not in self._options:
            raise InvalidParam(
                f"{self.name} lacks the file that is the memory of the machine",
                remedy="add ram=FILE, the mem-path of QEMU's memory-backend-file with share=on",
            )
        if self._type.pci is None and "mode" in self._options:
            raise InvalidParam(f"option mode is not for the machine {self._type.name}", remedy="leave mode out")
        self._ram_base = parse_number("ram-base", self._options["ram-base"]) if "ram-base" in self._options else None

    def open_transport(self) -> Opened:
        with ExitStack() as stack:
            with shield():
                machine = stack.enter_context(self.attach())
                transport, hal = guestless.reach(
                    machine, self._options.get("mode"), self._options.get("at"), filtered=self.filtered
                )
                stack.push(hal)
                stack.push(transport)
            return Opened(transport, hal, stack.pop_all())

    def attach(self) -> AttachedMachine:
        """Connect to the machine, and touch nothing of it. Raises SetupError."""
        qmp = Path(self._options["qmp"]) if "qmp" in self._options else None
        return AttachedMachine(
            self._type, Path(self.target.name), Path(self._options["ram"]), ram_base=self._ram_base, qmp=qmp
        )


def find(target: Target, sysfs: Sysfs) -> QtestPlace:
    """Raises InvalidParam."""
    check_options(target, OPTIONS)
    return QtestPlace(target)
