"""The door of memory-mapped registers: a virtio-mmio slot of QEMU, through /dev/mem. Which machine, the host says."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import udev
from hwloop import claim
from hwloop.vm.bus import MmioBus
from hwloop.vm.machine import machine as machine_of
from tests.guest import machine
from tests.guest.disks import DISKS, DiskSpec
from tests.guest.vfio_door import VfioDoor

MACHINE = os.environ.get("HWLOOP_MACHINE", "microvm")
VERSION = int(os.environ.get("HWLOOP_MMIO_VERSION") or "2")


def bus() -> MmioBus:
    found = machine_of(MACHINE).bus
    assert isinstance(found, MmioBus)
    return found


def address_of(index: int) -> int:
    """Where the registers of the disk are that the host gave in this turn."""
    return bus().address(index)


def target_of(index: int, options: str = "") -> str:
    return f"mmio:{address_of(index):#x}{options}"


@cache
def node_of(index: int) -> str:
    """The kernel's name of that disk's node."""
    [name] = [node.name for node in udev.list_mmio(udev.Sysfs()) if node.address == address_of(index)]
    return name


class DevMemDoor(VfioDoor):
    """Unbinds a disk for as long as the guest runs: a test then does not wait for the kernel's driver."""

    name = f"devmem-v{VERSION}-{MACHINE}"
    target = f"mmio:{address_of(0):#x}"
    options = ""
    driver = None

    def place(self, spec: DiskSpec) -> str:
        return target_of(DISKS.index(spec))

    def take(self, spec: DiskSpec) -> None:
        """All disks at once: the kernel maps whole pages of registers, and none of which a driver holds a part."""
        if machine.driver(node_of(DISKS.index(spec)), "platform") is not None:
            for index in range(len(DISKS)):
                leave_free(index)


def leave_free(index: int) -> None:
    """As `hwloop unbind` leaves it, without its processes, which are slow in an emulated guest."""
    node = machine.function(node_of(index), "platform")
    (node / "driver_override").write_text(f"{claim.NO_DRIVER}\n")
    (node / "driver/unbind").write_text(node.name)


def give_back_all() -> None:
    for index in range(len(DISKS)):
        node = machine.function(node_of(index), "platform")
        (node / "driver_override").write_text("\n")
        Path("/sys/bus/platform/drivers_probe").write_text(node.name)
