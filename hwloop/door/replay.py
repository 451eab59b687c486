"""A recorded device, with no device there: `replay:blk.rec`. What the driver does has to be what it did then.

A recording is made of any target: `qemu:disk.img?filter=record:blk.rec`. Options of queues, such as `packed`, have to
be those that it was made with.
"""

from __future__ import annotations

from contextlib import ExitStack

from hwloop.door.base import QUEUE_OPTIONS, Opened, Place, check_options
from hwloop.errors import SetupError
from hwloop.filter.file import Trace
from hwloop.filter.replay import ReplayHal, ReplayTransport, Script
from hwloop.hal.fake import FakeHal
from hwloop.spec import DeviceType
from hwloop.target import Target
from udev import Sysfs

OPTIONS = {"wait": ("poll", "irq")} | QUEUE_OPTIONS


class ReplayPlace(Place):
    """The device of a recording. Raises SetupError for a file that cannot be read, BadTrace for what is none."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        try:
            self._trace = Trace.read(target.name)
        except OSError as error:
            if error.errno is None or isinstance(error, SetupError) or not error.filename:
                raise
            raise SetupError.refused(f"cannot read {target.name}", error) from error
        self._type = DeviceType(Script(self._trace).device["type"])

    @property
    def device_type(self) -> DeviceType:
        return self._type

    def open_transport(self) -> Opened:
        memory = FakeHal()
        transport = ReplayTransport(Script(self._trace), memory)
        return Opened(transport, ReplayHal(memory, transport), ExitStack())


def find(target: Target, sysfs: Sysfs) -> ReplayPlace:
    """Raises InvalidParam, and what `ReplayPlace` raises."""
    check_options(target, OPTIONS)
    return ReplayPlace(target)
