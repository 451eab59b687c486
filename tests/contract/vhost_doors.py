"""The doors to disks that are processes: a strict one in this process, and qemu-storage-daemon."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path

import hwloop
from hwloop import testdev
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.hal.fake import FakeHal
from hwloop.spec import Feature
from hwloop.target import Target
from hwloop.vhost.fake_backend import EVERYTHING, LEAST, LIKE_QEMU, FakeBackEnd
from hwloop.vhost.messages import ProtocolFeature
from tests import storage_daemon
from tests.contract.door import Door, Wants
from tests.contract.fake_disks import make_fake, options_of


class SocketDoor(Door):
    """A back end that listens in a folder of its own."""

    target = "vhost-user:/path.sock"

    def __init__(self, name: str, options: str = "") -> None:
        self.name = name
        self.target = f"{self.target}?{options}".rstrip("?")
        self._options = dict(pair.split("=") for pair in options.split("&") if pair)
        self._folder = tempfile.TemporaryDirectory(prefix="hwloop-door-")
        self.path = Path(self._folder.name) / "disk.sock"
        self.resources = ExitStack()
        self.resources.push(self._folder)

    def reopen(self) -> VirtioBlk:
        disk = hwloop.open(Target("vhost-user", str(self.path), self._options | {"queue-size": str(self._largest)}))
        assert isinstance(disk, VirtioBlk)
        self.resources.push(disk)
        return disk

    def close(self) -> None:
        self.resources.close()

    _largest = 0


class VhostUserDoor(SocketDoor):
    """A `FakeBlk` behind the strict back end, whose thread runs at the same time as the driver."""

    can = frozenset(field.name for field in fields(Wants))

    def __init__(self, name: str, protocol: ProtocolFeature, options: str = "") -> None:
        super().__init__(name, options)
        self.protocol = protocol
        self.back_end: FakeBackEnd | None = None

    def make(self, size: int, wants: Wants) -> None:
        self._largest = wants.queue_size
        self.device = make_fake(FakeHal(), size, wants, Feature.VERSION_1, FakeBlk)
        self.back_end = FakeBackEnd(self.device, self.protocol)
        self.back_end.listen(self.path)

    def backing(self, offset: int, length: int) -> bytes:
        return bytes(self.device.data[offset : offset + length])

    def close(self) -> None:
        super().close()
        if self.back_end is not None:
            self.back_end.close()
            assert self.back_end.violations == []


class StorageDaemonDoor(SocketDoor):
    """A disk image behind qemu-storage-daemon."""

    can = frozenset({"read_only", "block_size", "queue_size", "discard", "write_zeroes", "write_cache"})
    lacks: Mapping[str, str] = {"serial": "every disk of qemu-storage-daemon has the same"}

    def make(self, size: int, wants: Wants) -> None:
        self._largest = wants.queue_size
        self.image = Path(self._folder.name) / "disk.img"
        with open(self.image, "wb") as image:
            image.truncate(size)
        writable, read_only = ("off", "on") if wants.read_only else ("on", "off")
        node = f"driver=file,filename={self.image},read-only={read_only}"
        export = f"writable={writable},num-queues=2,logical-block-size={wants.block_size}"
        self.resources.push(storage_daemon.start(self.path, node, export))

    def backing(self, offset: int, length: int) -> bytes:
        with open(self.image, "rb", buffering=0) as image:
            image.seek(offset)
            return image.read(length)


class DeviceProcessDoor(SocketDoor):
    """`hwloop testdev`, a process of its own, with an image."""

    can = frozenset(field.name for field in fields(Wants)) - {"serial"}

    def make(self, size: int, wants: Wants) -> None:
        self._largest = wants.queue_size
        self.image = Path(self._folder.name) / "disk.img"
        with open(self.image, "wb") as image:
            image.truncate(size)
        options = options_of(wants) | {"serial": wants.serial.decode()}
        device = testdev.start(f"{self.image}?{'&'.join(f'{key}={value}' for key, value in options.items())}")
        self.resources.push(device)
        self.path = device.path

    def backing(self, offset: int, length: int) -> bytes:
        with open(self.image, "rb", buffering=0) as image:
            image.seek(offset)
            return image.read(length)


VHOST_DOORS: dict[str, Callable[[], Door]] = {
    "vhost-user": partial(VhostUserDoor, "vhost-user", EVERYTHING),
    "vhost-user-irq": partial(VhostUserDoor, "vhost-user-irq", LIKE_QEMU, "wait=irq"),
    "vhost-user-least": partial(VhostUserDoor, "vhost-user-least", LEAST),
}
STORAGE_DAEMON_DOORS: dict[str, Callable[[], Door]] = {
    "vhost-user-qsd": partial(StorageDaemonDoor, "vhost-user-qsd"),
    "vhost-user-qsd-irq": partial(StorageDaemonDoor, "vhost-user-qsd-irq", "wait=irq"),
}
