"""The doors to QEMU's own disks without a guest: what `qemu:DISK.img` opens, for every machine and interface."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hwloop
from hwloop.device.blk import VirtioBlk
from hwloop.target import Target
from tests.contract.door import Door, Wants

OPTIONS = {
    "qtest-q35": "",
    "qtest-q35-legacy": "legacy=on",
    "qtest-q35-transitional": "transitional=on",
    "qtest-q35-transitional-legacy": "transitional=on&mode=legacy",
    "qtest-q35-packed": "packed=on",
    "qtest-q35-4-queues": "queues=4",
    "qtest-q35-packed-irq-4-queues": "packed=on&indirect=off&event-idx=on&wait=irq&queues=4",
    "qtest-q35-split-plain": "indirect=off&event-idx=off",
    "qtest-q35-irq": "wait=irq",
    "qtest-microvm-1": "machine=microvm&mmio-version=1",
    "qtest-microvm-2": "machine=microvm",
    "qtest-microvm-packed": "machine=microvm&packed=on",
    "qtest-virt-1": "machine=virt&mmio-version=1",
    "qtest-virt-2": "machine=virt",
    "qtest-virt-packed": "machine=virt&packed=on",
    "qtest-virt-irq": "machine=virt&wait=irq",
    "qtest-virt-pci": "machine=virt-pci",
    "qtest-virt-pci-legacy": "machine=virt-pci&legacy=on",
}
"""Door to the options of its target."""


class QtestDoor(Door):
    """A disk image in a folder of its own, behind QEMU's virtio-blk."""

    can = frozenset(
        {"read_only", "flush", "block_size", "queue_size", "serial", "discard", "write_zeroes", "write_cache"}
    )

    def __init__(self, name: str, options: str) -> None:
        self.name = name
        self.target = f"qemu:DISK.img?{options}".rstrip("?")
        self._options = dict(pair.split("=") for pair in options.split("&") if pair)
        self._folder = tempfile.TemporaryDirectory(prefix="hwloop-door-")
        self.image = Path(self._folder.name) / "disk.img"
        self.disk: VirtioBlk | None = None

    def make(self, size: int, wants: Wants) -> None:
        with open(self.image, "wb") as image:
            image.truncate(size)
        self._wanted = {
            "read-only": "on" if wants.read_only else "off",
            "write-cache": "on" if wants.flush else "off",
            "block-size": str(wants.block_size),
            "queue-size": str(wants.queue_size),
            "serial": os.fsdecode(wants.serial),
        }

    def reopen(self) -> VirtioBlk:
        disk = hwloop.open(Target("qemu", str(self.image), self._options | self._wanted))
        assert isinstance(disk, VirtioBlk)
        self.disk = disk
        return disk

    def backing(self, offset: int, length: int) -> bytes:
        with open(self.image, "rb", buffering=0) as image:
            image.seek(offset)
            return image.read(length)

    def close(self) -> None:
        with self._folder:
            if self.disk is not None:
                self.disk.close()
        assert running_qemus() == []


def running_qemus() -> list[str]:
    """The command lines of the QEMUs that this process has started and not ended."""
    pids = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in pids]
    return [line for line in lines if "qemu-system" in line]


QTEST_DOORS: dict[str, Callable[[], Door]] = {
    name: partial(QtestDoor, name, options) for name, options in OPTIONS.items()
}
