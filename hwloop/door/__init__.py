"""The ways to a device, one file a kind of target: each finds the place that a target names, and opens it.

To add a door: one file with a `find(target, sysfs)` that returns a `Place`, one line in `DOORS`, and the kind's syntax
in `hwloop.target`.
"""

from collections.abc import Callable

from hwloop.door.base import KernelPlace, Opened, Place, check_options
from hwloop.registry import Registry
from hwloop.target import Target
from udev import Sysfs

DOORS: Registry[Callable[[Target, Sysfs], Place]] = Registry(
    "kind of target",
    {
        "pci": "hwloop.door.pci:find",
        "block": "hwloop.door.disk:find",
        "mmio": "hwloop.door.mmio:find",
        "fake": "hwloop.door.fake:find",
        "qemu": "hwloop.door.qemu:find",
        "qtest": "hwloop.door.qtest:find",
        "replay": "hwloop.door.replay:find",
        "svirtb": "hwloop.door.svirtb:find",
        "vhost-user": "hwloop.door.vhost_user:find",
        "vhost-vdpa": "hwloop.door.vhost_vdpa:find",
    },
)

__all__ = ["DOORS", "KernelPlace", "Opened", "Place", "check_options"]
