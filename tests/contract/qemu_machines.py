"""QEMU's own devices behind each of its buses, driven through its qtest server. To add a way: a line in `QEMU`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TypeVar

from hwloop.device import Device
from hwloop.door.qemu import NO_IMAGE, QemuPlace
from hwloop.qtest.qemu import QemuMachine
from hwloop.target import Target

QEMU = {
    "qemu-q35": "machine=q35",
    "qemu-q35-legacy": "machine=q35&legacy=on",
    "qemu-q35-transitional": "machine=q35&transitional=on",
    "qemu-q35-transitional-legacy": "machine=q35&transitional=on&mode=legacy",
    "qemu-microvm-1": "machine=microvm&mmio-version=1",
    "qemu-microvm-2": "machine=microvm&mmio-version=2",
    "qemu-virt-1": "machine=virt&mmio-version=1",
    "qemu-virt-2": "machine=virt&mmio-version=2",
}
"""Name of the way to the options of a `qemu:` target."""

D = TypeVar("D", bound=Device)


def qemu_target(name: str, device: str) -> Target:
    return Target.parse(f"qemu:{NO_IMAGE}?device={device}&{QEMU[name]}")


def opened(place: QemuPlace, machine: QemuMachine, driver: type[D]) -> D:
    """A driver on the device of a machine that runs, and goes on running when the driver is closed."""
    with ExitStack() as stack:
        reached = place.reach(machine)
        stack.push(reached.resources)
        device = driver(reached.transport, reached.hal)
        device.call_when_closed(stack.pop_all().close)
    return device
