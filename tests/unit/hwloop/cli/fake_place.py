"""A fake device of any type as the target of a command."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from hwloop import session
from hwloop.door import Opened, Place
from hwloop.spec import DeviceType
from hwloop.target import Target
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import FakeDevice

TARGET = "fake:1M"


class DevicePlace(Place):
    """Where `device` is."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__(Target.parse(TARGET))
        self._device = device

    @property
    def device_type(self) -> DeviceType:
        return self._device.device_type

    def open_transport(self) -> Opened:
        return Opened(FakeTransport(self._device), self._device.hal, ExitStack())


def put(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every target is this device from now on."""
    monkeypatch.setattr(session, "find", lambda target, sysfs=None: DevicePlace(device))
