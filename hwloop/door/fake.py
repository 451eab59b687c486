"""A disk in process, stricter than any real one: `fake:16M?block-size=4096&io-error=1`. It needs no root.

What it is like and every switch of `Faults` and `BlkFaults` is an option: a number, a size, or `on` and `off`.
"""

from __future__ import annotations

from contextlib import ExitStack

from hwloop.device.fake_blk import FakeBlk
from hwloop.door.base import QUEUE_OPTIONS, WAIT, Opened, Place, check_options, parse_number
from hwloop.door.fake_shape import FAULTS, SHAPE, FakeShape
from hwloop.errors import InvalidParam
from hwloop.hal.fake import FakeHal
from hwloop.hal.fake_interrupt import FakeInterrupts
from hwloop.size import parse_size
from hwloop.spec import DeviceType
from hwloop.target import Target
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, RINGS
from udev import Sysfs

OPTIONS = SHAPE | FAULTS | WAIT | QUEUE_OPTIONS | {"vectors": None}
_LARGEST = 1 << 30
_VECTORS = "2"
"""MSI-X vectors of the device, where the target does not say: one for its queue, and one for its configuration."""


class FakePlace(Place):
    """A disk of zeros that begins when it is opened and ends with it."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._shape = FakeShape(parse_size(target.name), target.options)
        _check_size(self._shape)
        self._vectors = parse_number("vectors", target.options.get("vectors", _VECTORS), range(2049))

    @property
    def device_type(self) -> DeviceType:
        return DeviceType.Block

    def open_transport(self) -> Opened:
        interrupts = FakeInterrupts(self._vectors)
        hal = FakeHal(interrupts=interrupts)
        device = self.make_device(hal)
        device.connect(interrupts)
        return Opened(FakeTransport(device), hal, ExitStack())

    def make_device(self, hal: FakeHal) -> FakeBlk:
        """The device side, with its switches set."""
        return self._shape.make(hal, MODERN | RINGS, FakeBlk)


def find(target: Target, sysfs: Sysfs) -> FakePlace:
    """Raises InvalidParam."""
    check_options(target, OPTIONS)
    return FakePlace(target)


def _check_size(shape: FakeShape) -> None:
    if shape.size % shape.block_size or shape.size > _LARGEST:
        raise InvalidParam(
            f"a fake disk cannot have {shape.size} bytes",
            remedy=f"give a multiple of its block size {shape.block_size}, up to {_LARGEST >> 20}M",
        )
