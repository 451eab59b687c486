"""A disk in process, stricter than any real one: `fake:16M?block-size=4096&io-error=1`. It needs no root.

Every switch of `Faults` and `BlkFaults` is an option: a number, or `on` and `off`.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields
from typing import Any

from hwloop.device.fake_blk import BlkFaults, FakeBlk
from hwloop.door.base import SWITCH, Opened, Place, check_options, parse_number
from hwloop.errors import InvalidParam
from hwloop.hal.fake import FakeHal
from hwloop.size import parse_size
from hwloop.spec import SECTOR_SIZE, BlkFeature, DeviceType
from hwloop.target import Target
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, Faults
from udev import Sysfs

_BLOCK_SIZES = ("512", "1024", "2048", "4096", "8192", "16384", "32768", "65536")
_SHAPE = {"block-size": _BLOCK_SIZES, "queue-size": None, "read-only": SWITCH, "flush": SWITCH, "serial": None}
_SWITCHES = {field.name.replace("_", "-"): field for kind in (Faults, BlkFaults) for field in fields(kind)}
OPTIONS = _SHAPE | {name: SWITCH if field.type == "bool" else None for name, field in _SWITCHES.items()}
_LARGEST = 1 << 30


class FakePlace(Place):
    """A disk of zeros that begins when it is opened and ends with it."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._options = target.options
        self._block_size = int(self._options.get("block-size", SECTOR_SIZE))
        self._size = self._checked_size(target.name)
        self._queue_size = parse_number("queue-size", self._options.get("queue-size", "64"), range(1 << 16))
        self._faults = {key: _value(key, self._options[key]) for key in self._options if key in _SWITCHES}

    @property
    def device_type(self) -> DeviceType:
        return DeviceType.Block

    def open_transport(self) -> Opened:
        hal = FakeHal()
        return Opened(FakeTransport(self.make_device(hal)), hal, ExitStack())

    def make_device(self, hal: FakeHal) -> FakeBlk:
        """The device side, with its switches set."""
        serial = self._options.get("serial", "FAKE0").encode()
        device = FakeBlk(
            hal, self._size, features=self._features(), queue_size=self._queue_size,
            block_size=self._block_size, serial=serial,
        )  # fmt: skip
        for key, value in self._faults.items():
            name = _SWITCHES[key].name
            setattr(device.faults if hasattr(device.faults, name) else device.blk_faults, name, value)
        return device

    def _features(self) -> int:
        features = int(MODERN | BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX)
        features |= BlkFeature.RO if self._options.get("read-only") == "on" else 0
        return features | (0 if self._options.get("flush") == "off" else BlkFeature.FLUSH)

    def _checked_size(self, text: str) -> int:
        size = parse_size(text)
        if size % self._block_size or size > _LARGEST:
            raise InvalidParam(
                f"a fake disk cannot have {size} bytes",
                remedy=f"give a multiple of its block size {self._block_size}, up to {_LARGEST >> 20}M",
            )
        return size


def find(target: Target, sysfs: Sysfs) -> FakePlace:
    """Raises InvalidParam."""
    check_options(target, OPTIONS)
    return FakePlace(target)


def _value(key: str, text: str) -> Any:
    # -1 is for ever, where there is such a thing.
    return text == "on" if OPTIONS[key] is SWITCH else parse_number(key, text, range(-1, 1 << 31))
