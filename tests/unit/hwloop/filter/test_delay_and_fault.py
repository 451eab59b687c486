"""Devices that are slow or misbehave because a filter makes them."""

from __future__ import annotations

import time

import pytest

from hwloop import session
from hwloop.device.block import BlockDevice
from hwloop.errors import DeadlineExpired, DeviceLost, FeaturesRefused, InvalidParam
from hwloop.filter import parse_filters
from hwloop.filter.delay import DelayedTransport
from hwloop.filter.fault import FaultyTransport


def read(target: str) -> bytes:
    with session.open(target) as disk:
        assert isinstance(disk, BlockDevice)
        return b"".join(disk.read(sector, 512) for sector in range(3))


def slept(monkeypatch: pytest.MonkeyPatch, target: str) -> list[float]:
    naps: list[float] = []
    monkeypatch.setattr("hwloop.filter.delay.time.sleep", naps.append)
    read(target)
    return naps


def test_a_notification_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    naps = slept(monkeypatch, "fake:1M?filter=delay:5ms")
    assert [nap for nap in naps if nap] == [0.005] * 3


def test_registers_can_be_late_too(monkeypatch: pytest.MonkeyPatch) -> None:
    naps = slept(monkeypatch, "fake:1M?filter=delay:register=250us")
    assert naps.count(0.00025) > 10


def test_a_delay_is_seen_by_the_clock() -> None:
    start = time.monotonic()
    read("fake:1M?filter=delay:20ms")
    assert time.monotonic() - start >= 0.06


def test_filters_stack() -> None:
    with session.open("fake:1M?filter=delay:1us,fault:lose-notifications=1") as disk:
        outer = disk.transport  # type: ignore[attr-defined]
        assert isinstance(outer, DelayedTransport)
        assert isinstance(outer.inner, FaultyTransport)
        assert isinstance(disk, BlockDevice)
        assert disk.read(0, 512) == bytes(512)


def test_lost_notifications_are_survived() -> None:
    assert read("fake:1M?filter=fault:lose-notifications=1") == bytes(1536)


def test_a_device_that_is_gone() -> None:
    with pytest.raises(DeviceLost):
        read("fake:1M?filter=fault:gone-after=2")


def test_a_device_that_needs_a_reset_in_the_middle() -> None:
    with pytest.raises(DeviceLost, match="reset"):
        read("fake:1M?drop=on&filter=fault:needs-reset-after=1")


def test_features_that_do_not_stick() -> None:
    with pytest.raises(FeaturesRefused):
        read("fake:1M?filter=fault:no-features-ok")


def test_a_driver_that_is_not_let_in() -> None:
    with pytest.raises(DeviceLost, match="did not become ready"):
        read("fake:1M?filter=fault:no-driver-ok")


def test_a_reset_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = session.open("fake:1M?filter=fault:stuck-reset")
    monkeypatch.setattr(type(disk.transport).reset, "__defaults__", (0.05,))  # type: ignore[attr-defined]
    with pytest.raises(DeadlineExpired, match="reset"):
        disk.close()


def test_bus_mastering_that_somebody_turns_off() -> None:
    with pytest.raises(AssertionError, match="bus mastering is off"):
        read("fake:1M?filter=fault:lose-bus-master-after=2")


def test_features_can_be_withheld() -> None:
    with session.open("fake:1M?filter=fault:withhold=0x200") as disk:
        assert not disk.negotiated & 0x200  # type: ignore[attr-defined]


def test_each_place_has_faults_of_its_own() -> None:
    place = session.find("fake:1M?filter=fault:lose-notifications=1")
    for _ in range(2):
        with place.open() as disk:
            transport = disk.transport  # type: ignore[attr-defined]
            assert isinstance(transport, FaultyTransport)
            assert transport.faults.lose_notifications == 1
            transport.faults.lose_notifications = 0


@pytest.mark.parametrize(
    "text",
    ["delay", "delay:", "delay:5", "delay:5m", "delay:-1s", "delay:nonsense=1s", "delay:notify=1s:notify=2s", "fault",
     "fault:nonsense", "fault:gone-after=0", "fault:gone-after=x", "fault:withhold=x", "fault:stuck-reset=maybe"],
)  # fmt: skip
def test_options_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParam):
        parse_filters(text)
