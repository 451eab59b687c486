"""The door of vhost-vdpa: a disk of qemu-storage-daemon in the guest, through VDUSE and the kernel's vhost_vdpa."""

from __future__ import annotations

import functools
import itertools
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import hwloop
from hwloop.device.blk import VirtioBlk
from hwloop.qtest.process import QemuProcess
from tests.contract.door import Door, Wants
from tests.guest import machine

_DEVICES = Path("/sys/bus/vdpa/devices")


class VduseDisk:
    """An image in the guest's memory, the daemon that serves it, and the node that it is reached by."""

    numbers = itertools.count()

    def __init__(self, size: int, wants: Wants) -> None:
        self.name = f"disk{next(self.numbers)}"
        self.image = Path(tempfile.gettempdir()) / f"{self.name}.img"
        with open(self.image, "wb") as file:
            file.truncate(size)
        subprocess.run(["modprobe", "-a", "vduse", "vhost_vdpa"], check=True)
        self.daemon = QemuProcess("qemu-storage-daemon", self._arguments(wants), package="qemu-system-common")
        assert machine.wait_for(Path(f"/dev/vduse/{self.name}").exists), self.daemon.read_output()
        # vhost_vdpa is the only driver of vDPA devices here: the kernel gives it this one at once.
        subprocess.run(["vdpa", "dev", "add", "name", self.name, "mgmtdev", "vduse"], check=True)
        [node] = (_DEVICES / self.name).glob("vhost-vdpa-*")
        self.node = f"/dev/{node.name}"

    def _arguments(self, wants: Wants) -> list[str]:
        read_only = "on" if wants.read_only else "off"
        writable = "off" if wants.read_only else "on"
        export = (
            f"type=vduse-blk,id=export0,node-name=disk0,name={self.name},writable={writable},num-queues=1,"
            f"queue-size={wants.queue_size},logical-block-size={wants.block_size},serial={wants.serial.decode()}"
        )
        node = f"driver=file,node-name=disk0,filename={self.image},read-only={read_only}"
        return ["--blockdev", node, "--export", export]

    def close(self) -> None:
        """The device first: the daemon that has one cannot let go of its name."""
        subprocess.run(["vdpa", "dev", "del", self.name], check=True)
        self.daemon.close()


@functools.cache
def disk(size: int, wants: Wants) -> VduseDisk:
    """One of each kind for all tests: starting a daemon takes an emulated guest longer than most tests."""
    return VduseDisk(size, wants)


class VdpaDoor(Door):
    name = "vhost-vdpa"
    target = "vhost-vdpa:/dev/vhost-vdpa-0"
    can = frozenset({"read_only", "block_size", "queue_size"})
    lacks: Mapping[str, str] = {
        "end in flight": "qemu-storage-daemon 7.2 ends itself at a reset with requests in flight (libvduse)"
    }

    def __init__(self) -> None:
        self._opened: VirtioBlk | None = None

    def make(self, size: int, wants: Wants) -> None:
        self._disk = disk(size, wants)
        if not wants.read_only:
            with open(self._disk.image, "r+b", buffering=0) as image:
                assert image.write(bytes(size)) == size

    def reopen(self) -> VirtioBlk:
        opened = hwloop.open(f"vhost-vdpa:{self._disk.node}")
        assert isinstance(opened, VirtioBlk)
        self._opened = opened
        return opened

    def backing(self, offset: int, length: int) -> bytes:
        with open(self._disk.image, "rb", buffering=0) as image:
            image.seek(offset)
            return image.read(length)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
