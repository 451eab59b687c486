"""All virtio devices of this machine by type, to take one of a type, as seed 000 does: `probe().block.take_one()`."""

from __future__ import annotations

from collections.abc import Iterator

from hwloop import session
from hwloop.device import Driver
from hwloop.errors import RefusedError
from hwloop.inventory import virtio_functions
from hwloop.spec import DeviceType
from udev import Sysfs


class DeviceContainer:
    """Targets of one device type. Nothing of them is opened before it is taken."""

    def __init__(self, targets: list[str], sysfs: Sysfs) -> None:
        self._targets = targets
        self._sysfs = sysfs

    def __len__(self) -> int:
        return len(self._targets)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._targets))

    def take_one(self) -> Driver | None:
        """Open the first device that is not in use and return its driver; None when there is none left.

        Each device is offered once. Raises what `hwloop.open` raises, but for a device that is in use.
        """
        while self._targets:
            try:
                return session.open(self._targets.pop(0), self._sysfs)
            except RefusedError:
                continue
        return None


class AllDevices:
    """A `DeviceContainer` for each type, by its label: `block`, `console`, `entropy`, ..."""

    def __init__(self, targets: dict[str, list[str]], sysfs: Sysfs) -> None:
        self._targets = targets
        self._sysfs = sysfs
        self._containers: dict[str, DeviceContainer] = {}

    def __getattr__(self, label: str) -> DeviceContainer:
        if label.replace("_", "-") not in {kind.label for kind in DeviceType}:
            raise AttributeError(f"no type of device is called {label!r}")
        label = label.replace("_", "-")
        return self._containers.setdefault(label, DeviceContainer(self._targets.get(label, []), self._sysfs))


def probe(sysfs: Sysfs | None = None) -> AllDevices:
    """Look for every virtio PCI function of this machine that could be taken. Nothing is opened or changed."""
    sysfs = sysfs or Sysfs()
    found: dict[str, list[str]] = {}
    for record in virtio_functions(sysfs):
        if record.can_take:
            found.setdefault(record.type, []).append(record.address)
    return AllDevices(found, sysfs)
