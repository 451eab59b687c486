"""Which driver a device gets: that of its type (seed 004)."""

from __future__ import annotations

import pytest

import hwloop
from hwloop.device import DRIVERS
from hwloop.device.fake_blk import FakeBlk
from hwloop.device.fake_console import FakeConsole
from hwloop.device.fake_rng import FakeRng
from hwloop.errors import Unsupported
from hwloop.hal.fake import FakeHal
from hwloop.spec import DeviceType
from hwloop.transport.fake_device import MODERN, FakeDevice
from tests.unit.hwloop.cli.fake_place import TARGET, put


@pytest.mark.parametrize(
    ("kind", "driver"), [(FakeBlk, "VirtioBlk"), (FakeConsole, "VirtIOConsole"), (FakeRng, "VirtioRng")]
)
def test_a_device_that_is_opened_gets_the_driver_of_its_type(
    monkeypatch: pytest.MonkeyPatch, kind: type[FakeDevice], driver: str
) -> None:
    device = kind(FakeHal())  # type: ignore[call-arg]
    put(device, monkeypatch)
    with hwloop.open(TARGET) as opened:
        assert type(opened) is getattr(hwloop, driver)
        assert opened.device_type() == device.device_type
    assert device.hal.leaks() == []


def test_every_driver_is_listed_under_the_label_of_a_device_type() -> None:
    labels = {device_type.label for device_type in DeviceType}
    assert set(DRIVERS) <= labels
    for label in DRIVERS:
        assert DRIVERS.get(label).device_name is not None


def test_a_device_without_a_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    put(FakeDevice(FakeHal(), DeviceType.GPU, MODERN, [4], b""), monkeypatch)
    with pytest.raises(Unsupported, match="no driver for gpu devices"):
        hwloop.open(TARGET)
