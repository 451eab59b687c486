"""The character device that a UIO driver makes of a function, and who has a device node open."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from udev.errors import BindTimeout
from udev.node import wait_for_node, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from udev.sysfs import Sysfs


def uio_node(sysfs: Sysfs, address: str, *, bus: str = "pci") -> Path | None:
    """The node of the device, such as /dev/uio0; None while no UIO driver holds it. It may not be in /dev yet."""
    names = sysfs.read_names(sysfs.device(address, bus) / "uio")
    return sysfs.dev / names[0] if names else None


def wait_for_uio(sysfs: Sysfs, address: str, deadline: float, *, bus: str = "pci") -> Path:
    """The node, once it is there. Raises `BindTimeout` after `deadline` seconds."""
    try:
        wait_until(lambda: uio_node(sysfs, address, bus=bus) is not None, "", deadline)
    except BindTimeout:
        folder = sysfs.device(address, bus) / "uio"
        raise BindTimeout(
            f"{bus} device {address}: no UIO device after {deadline:.1f} s; is the driver bound? `ls {folder}`"
        ) from None
    node = uio_node(sysfs, address, bus=bus)
    assert node is not None
    wait_for_node(node, deadline)
    return node


def processes_with(sysfs: Sysfs, node: Path) -> list[int]:
    """The pids of the processes that have `node` open, sorted, ours too. Those of other users are seen only by root."""
    return [int(pid) for pid in filter(str.isdigit, sysfs.read_names(sysfs.proc)) if _has_open(sysfs.proc / pid, node)]


def _has_open(process: Path, node: Path) -> bool:
    try:
        descriptors = os.listdir(process / "fd")
    except OSError:
        return False  # gone by now, or not ours to look at
    return any(_leads_to(process / "fd" / descriptor, node) for descriptor in descriptors)


def _leads_to(descriptor: Path, node: Path) -> bool:
    try:
        return os.readlink(descriptor) == str(node)
    except OSError:
        return False
