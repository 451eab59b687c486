"""A "Simple VirtIO Block" device (seed 002): `svirtb:DISK.img`, in this process."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import ExitStack

from hwloop.device.svirtb import QUEUE_SIZE, SvirtbBlk
from hwloop.device.svirtb_memory import FileBacking, HalMemory
from hwloop.device.svirtb_model import SimpleVirtIoBlockDev
from hwloop.device.svirtb_protocol import SVIRTB_BASE, Interpretation, VirtIoMmioHeader
from hwloop.door.base import Opened, Place, check_options
from hwloop.errors import InvalidParam, Unsupported
from hwloop.hal.base import Hal
from hwloop.hal.fake import FakeHal
from hwloop.signals import shield
from hwloop.spec import SECTOR_SIZE, DeviceType, PhysAddr
from hwloop.target import Target
from udev import Sysfs

OPTIONS = {"queue-size": None}


class SvirtbPlace(Place):
    """A svirtb device: how its registers and memory are reached is for subclasses to say."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.queue_size = _number("queue-size", target.options.get("queue-size", str(QUEUE_SIZE)))
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
        """A Hal that has the registers at `SVIRTB_BASE`, and the sectors of the disk; `stack` ends what else there
        is."""

    def _driver_on(self, hal: Hal, sectors: int) -> SvirtbBlk:
        with ExitStack() as stack:
            stack.push(hal)
            region = hal.mmio_phys_to_virt(PhysAddr(SVIRTB_BASE), VirtIoMmioHeader.span)
            stack.pop_all()
        return SvirtbBlk(hal, region, sectors, queue_size=self.queue_size)


class InProcessPlace(SvirtbPlace):
    """A disk image behind the strict model, which runs in a thread."""

    def _reach(self, stack: ExitStack) -> tuple[Hal, int]:
        hal = FakeHal()
        backing = stack.enter_context(FileBacking(self.target.name))
        model = stack.enter_context(SimpleVirtIoBlockDev(backing, HalMemory(hal)))
        model.attach(hal.regions)
        model.start()
        return hal, backing.size // SECTOR_SIZE


def find(target: Target, sysfs: Sysfs) -> SvirtbPlace:
    """Raises InvalidParam."""
    check_options(target, OPTIONS)
    return InProcessPlace(target)


def _number(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidParam(f"option {key} cannot be {text!r}", remedy="give a number") from None
