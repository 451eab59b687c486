from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from udev import DeviceEvent, Monitor, events


class FakeDevice:
    def __init__(self, action: str, name: str = "vda") -> None:
        self.action, self.subsystem, self.sys_name, self.sys_path = action, "block", name, f"/sys/devices/x/{name}"


class FakeSource:
    """pyudev's monitor: hands out devices in order, then waits its timeout and returns None."""

    def __init__(self, *devices: FakeDevice) -> None:
        self.devices = list(devices)

    def poll(self, timeout: float) -> FakeDevice | None:
        if self.devices:
            return self.devices.pop(0)
        time.sleep(timeout)
        return None


def listen_to(monkeypatch: pytest.MonkeyPatch, *devices: FakeDevice) -> None:
    monkeypatch.setattr(events, "_listen", lambda subsystems: FakeSource(*devices))


def test_an_event_is_told_with_its_action_and_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    listen_to(monkeypatch, FakeDevice("add"))
    with Monitor() as monitor:
        assert monitor.next(1) == DeviceEvent("add", "block", "vda", "/sys/devices/x/vda")


def test_events_of_other_kinds_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    listen_to(monkeypatch, FakeDevice("change"), FakeDevice("offline"), FakeDevice("unbind", "0000:00:05.0"))
    with Monitor() as monitor:
        event = monitor.next(1)
    assert event is not None
    assert (event.action, event.sys_name) == ("unbind", "0000:00:05.0")


def test_events_of_other_kinds_do_not_prolong_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    listen_to(monkeypatch, *[FakeDevice("change") for _ in range(3)])
    start = time.monotonic()
    with Monitor() as monitor:
        assert monitor.next(0.1) is None
    assert 0.1 <= time.monotonic() - start < 2


def test_a_closed_monitor_refuses_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    listen_to(monkeypatch)
    monitor = Monitor().open()
    monitor.close()
    monitor.close()
    with pytest.raises(ValueError, match="not open"):
        monitor.next(0)


def test_the_kernel_itself_is_heard() -> None:
    """Needs root: writing to a device's `uevent` makes the kernel repeat an event for it."""
    pytest.importorskip("pyudev")
    trigger = Path("/sys/class/block/loop0/uevent")
    if not (trigger.exists() and os.access(trigger, os.W_OK)):
        pytest.skip("no loop0 whose uevent this user may write")
    with Monitor() as monitor:
        trigger.write_text("add")
        event = monitor.next(5)
    assert event is not None
    assert (event.action, event.subsystem, event.sys_name) == ("add", "block", "loop0")
    assert Path(event.sys_path) == trigger.parent.resolve()


def test_a_quiet_kernel_is_none_after_the_timeout() -> None:
    pytest.importorskip("pyudev")
    start = time.monotonic()
    with Monitor(["no-such-subsystem"]) as monitor:
        assert monitor.next(0.1) is None
    assert time.monotonic() - start >= 0.1
