"""Devices that come and go, and drivers that take or leave them, as the kernel reports it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

ACTIONS = frozenset({"add", "remove", "bind", "unbind"})


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """One event: `action` is add, remove, bind or unbind; `sys_path` is the device's folder under `/sys/devices`."""

    action: str
    subsystem: str
    sys_name: str
    sys_path: str


class Monitor:
    """Listens to the kernel's own events, not to udevd's, so it works where no udevd runs.

    It hears from `open()` (or `with`) on; what happened before is not repeated. The device node of an event may
    come a moment after it, and udev's names for it may never come.
    """

    def __init__(self, subsystems: Sequence[str] = ("pci", "block")) -> None:
        self._subsystems = tuple(subsystems)
        self._source: Any = None

    def open(self) -> Monitor:
        """Start to listen. Raises `OSError` when the kernel's socket cannot be had."""
        if self._source is None:
            self._source = _listen(self._subsystems)
        return self

    def close(self) -> None:
        """Stop listening; a second time does nothing."""
        self._source = None  # pyudev closes the socket when the last reference goes

    def __enter__(self) -> Monitor:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def next(self, timeout: float) -> DeviceEvent | None:
        """The next event, or None when none came within `timeout` seconds. Raises `ValueError` when not open."""
        if self._source is None:
            raise ValueError("Monitor.next: the monitor is not open; use it in a `with` block")
        end = time.monotonic() + timeout
        while True:
            device = self._source.poll(timeout=max(0.0, end - time.monotonic()))
            if device is not None and device.action in ACTIONS:
                return DeviceEvent(device.action, device.subsystem or "", device.sys_name, device.sys_path)
            if time.monotonic() >= end:
                return None


def _listen(subsystems: Sequence[str]) -> Any:
    import pyudev

    source = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
    for subsystem in subsystems:
        source.filter_by(subsystem)
    source.start()
    return source
