"""A "Simple VirtIO Block" device (seed 002). `svirtb:DISK.img` is the model of one, in this process, or with
`?trapped=on` at trapped registers; `svirtb:0xcafe0000?size=16M` a real one at that address, through /dev/mem.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from contextlib import ExitStack

from hwloop.device.svirtb import QUEUE_SIZE, SvirtbBlk
from hwloop.device.svirtb_memory import FileBacking, HalMemory
from hwloop.device.svirtb_model import SimpleVirtIoBlockDev
from hwloop.device.svirtb_protocol import SVIRTB_BASE, Interpretation, VirtIoMmioHeader
from hwloop.door.base import SWITCH, Opened, Place, check_options, parse_number
from hwloop.errors import InvalidParam, Unsupported
from hwloop.hal.base import Hal
from hwloop.hal.devmem import DevMemHal
from hwloop.hal.fake import FakeHal
from hwloop.inventory_mmio import bare_name
from hwloop.lock import DeviceLock
from hwloop.signals import shield
from hwloop.size import parse_size
from hwloop.spec import SECTOR_SIZE, DeviceType, PhysAddr
from hwloop.target import Target
from udev import Sysfs

_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]{1,16}")
_RING = {"queue-size": None}
OPTIONS = _RING | {"trapped": SWITCH}
PHYSICAL_OPTIONS = _RING | {"size": None, "reset": SWITCH}


class SvirtbPlace(Place):
    """A svirtb device: how its registers at `address`, and memory, are reached is for subclasses to say.

    `reset_first` is for the device of a driver that died, whose place is known.
    """

    address = SVIRTB_BASE
    reset_first = False

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.queue_size = parse_number("queue-size", target.options.get("queue-size", str(QUEUE_SIZE)))
        Interpretation().check_queue_size(self.queue_size)

    @property
    def device_type(self) -> DeviceType:
        return DeviceType.Block

    def open_transport(self) -> Opened:
        raise Unsupported(
            f"{self.name} has no transport: svirtb has no features, virtqueues or configuration",
            remedy="use it as a disk: hwloop read, hwloop write",
        )

    def open(self) -> SvirtbBlk:
        if self.filters:
            raise Unsupported(
                f"{self.name} has no transport that a filter could stand in front of",
                remedy="leave filter= and --trace out",
            )
        with ExitStack() as stack:
            with shield():
                hal, sectors = self._reach(stack)
                disk = self._driver_on(hal, sectors)
                disk.call_when_closed(stack.pop_all().close)
                stack.push(disk)
            # A signal that came meanwhile was raised at the end of the shield, and `stack` has given everything back.
            stack.pop_all()
        return disk

    @abstractmethod
    def _reach(self, stack: ExitStack) -> tuple[Hal, int]:
        """A Hal that has the registers, and the sectors of the disk; `stack` ends what else there is."""

    def _driver_on(self, hal: Hal, sectors: int) -> SvirtbBlk:
        with ExitStack() as stack:
            stack.push(hal)
            region = hal.mmio_phys_to_virt(PhysAddr(self.address), VirtIoMmioHeader.span)
            stack.pop_all()
        return SvirtbBlk(hal, region, sectors, queue_size=self.queue_size, reset_first=self.reset_first)


class InProcessPlace(SvirtbPlace):
    """A disk image behind the strict model, which runs in a thread."""

    def _reach(self, stack: ExitStack) -> tuple[Hal, int]:
        hal = FakeHal()
        backing = stack.enter_context(FileBacking(self.target.name))
        model = stack.enter_context(SimpleVirtIoBlockDev(backing, HalMemory(hal)))
        model.attach(hal.regions)
        model.start()
        return hal, backing.size // SECTOR_SIZE


class TrappedPlace(SvirtbPlace):
    """A disk image behind the model in a process of its own, at registers that QEMU traps."""

    def _reach(self, stack: ExitStack) -> tuple[Hal, int]:
        # Loaded by those who use it: QEMU's whole machinery is behind it.
        from hwloop.door.svirtb_trapped import TrappedMachine

        with FileBacking(self.target.name) as backing:
            sectors = backing.size // SECTOR_SIZE
        machine = stack.enter_context(TrappedMachine(self.target.name, SECTOR_SIZE))
        return machine.hal(), sectors


class PhysicalPlace(SvirtbPlace):
    """Registers of this machine. The protocol tells no capacity, so the target does."""

    def __init__(self, target: Target, sysfs: Sysfs) -> None:
        super().__init__(target)
        self.address = int(target.name, 16)
        self.reset_first = target.options.get("reset") == "on"
        if "size" not in target.options:
            raise InvalidParam(f"{self.name} says nothing of its size", remedy=f"give it: {self.name}?size=16M")
        self.size = parse_size(target.options["size"])
        if not self.size or self.size % SECTOR_SIZE:
            raise InvalidParam(f"a disk of {self.size} bytes is not whole sectors")
        self._sysfs = sysfs

    def _reach(self, stack: ExitStack) -> tuple[Hal, int]:
        stack.enter_context(DeviceLock(bare_name(self.address)))
        return DevMemHal(self._sysfs.dev / "mem", self._sysfs), self.size // SECTOR_SIZE


def find(target: Target, sysfs: Sysfs) -> SvirtbPlace:
    """Raises InvalidParam."""
    if _ADDRESS.fullmatch(target.name):
        check_options(target, PHYSICAL_OPTIONS)
        return PhysicalPlace(target, sysfs)
    check_options(target, OPTIONS)
    return TrappedPlace(target) if target.options.get("trapped") == "on" else InProcessPlace(target)
