"""What is driven, and the faults that each can have. A fault returns what undoes it, or None."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import hwloop
from bench import device as devices
from hwloop import testdev
from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_protocol import BlkConfig
from hwloop.device.fake_blk import FakeBlk
from hwloop.door.qemu import DEVICE_ID, QemuPlace
from hwloop.hal.fake import FakeHal
from hwloop.owner import Owner
from hwloop.qtest.qemu import QemuMachine
from hwloop.queue_options import QueueOptions
from hwloop.spec import BlkFeature, DeviceStatus
from hwloop.target import Target
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, RINGS

MIB = 1 << 20
SECONDS = 0.25
"""Of a request, where the device is in this process."""
PROCESS_SECONDS = 2.0
"""Where it is another one, which a busy machine may not run for a while."""

Undo = Callable[[], object]
Fault = Callable[[], Undo | None]


class Rig(Owner):
    """One disk and its device, from a new start to `close`."""

    believes = True

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose
        self.resources = ExitStack()
        try:
            self.disk = self.make()
        except BaseException:
            self.resources.close()
            raise

    @abstractmethod
    def make(self) -> VirtioBlk: ...

    @abstractmethod
    def faults(self) -> dict[str, Fault]: ...

    def close(self) -> None:
        self.resources.close()


# --- In this process --------------------------------------------------------------------------------------------------


class FakeRig(Rig):
    packed = False

    def make(self) -> VirtioBlk:
        hal = FakeHal()
        self.device = FakeBlk(hal, MIB, features=MODERN | RINGS | BlkFeature.MQ | BlkFeature.FLUSH, queues=2)
        self.resources.callback(self._nothing_is_left, hal)
        return self.resources.enter_context(
            VirtioBlk(
                FakeTransport(self.device),
                hal,
                request_seconds=SECONDS,
                options=QueueOptions({"packed": self.packed}, queues=2),
            )
        )

    def _nothing_is_left(self, hal: FakeHal) -> None:
        assert hal.leaks() == []

    def faults(self) -> dict[str, Fault]:
        return {
            **{f"fake {name}": self._once(name) for name in ("io_error", "no_status", "undefined_status")},
            "fake lost notification": self._lose,
            "fake never completes": self._drop,
            "fake asks for a reset": self._needs_reset,
            "fake resets itself": self._reset_itself,
            "fake broken ring": self._break_ring,
            "fake resize": self._resize,
        }

    def _once(self, name: str) -> Fault:
        return lambda: setattr(self.device.blk_faults, name, 1)

    def _lose(self) -> None:
        self.device.faults.lose_notifications = 1

    def _drop(self) -> Undo:
        self.device.faults.drop = True
        return lambda: setattr(self.device.faults, "drop", False)

    def _held(self, then: Callable[[], object]) -> None:
        """A request is on its way when it happens. Raises what that fails with."""
        self.device.hold = True
        try:
            token = self.disk.submit_read(0, 512)
            then()
            self.disk.wait(token)
        finally:
            self.device.hold = False

    def _needs_reset(self) -> None:
        self._held(lambda: setattr(self.device, "status", self.device.status | DeviceStatus.DEVICE_NEEDS_RESET))

    def _reset_itself(self) -> None:
        self._held(self.device.reset_itself)

    def _break_ring(self) -> None:
        def put() -> None:
            ring = self.device.queues[0].ring
            assert ring is not None
            if self.packed:
                ring.put_used(0, 0x7777, 1, 0x8080)
            else:
                ring.set_used_idx(self.choose.randrange(1 << 16))

        self._held(put)

    def _resize(self) -> None:
        sectors = self.choose.choice([1024, 2048, 4096])
        self.device.data = self.device.data[: sectors * 512].ljust(sectors * 512, b"\0")
        self.device.durable = self.device.durable[: sectors * 512].ljust(sectors * 512, b"\0")
        self.device.set_config(BlkConfig.capacity.offset, BlkConfig.capacity.width, sectors)
        self.device.config_changed()
        self.disk.check_events()


class PackedFakeRig(FakeRig):
    packed = True


# --- Other processes --------------------------------------------------------------------------------------------------


class ProcessRig(Rig):
    """A device that is a process, by its pid: it is stopped for a moment, for too long, and killed."""

    pid = 0

    def faults(self) -> dict[str, Fault]:
        name = type(self).__name__.removesuffix("Rig")
        return {f"{name} stands still": self._stop, f"{name} is killed": self._kill}

    def _stop(self) -> Undo:
        """Longer than a request may take, or not as long."""
        self._send(signal.SIGSTOP)
        self.disk._request_seconds = self.choose.choice([0.3, PROCESS_SECONDS])
        return self._go_on

    def _go_on(self) -> None:
        self._send(signal.SIGCONT)
        self.disk._request_seconds = PROCESS_SECONDS

    def _kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, signum: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def close(self) -> None:
        self._send(signal.SIGCONT)
        super().close()

    def open(self, target: str) -> VirtioBlk:
        disk = hwloop.open(target)
        assert isinstance(disk, VirtioBlk)
        disk._request_seconds = PROCESS_SECONDS
        for queue in disk.queues:
            queue.request_seconds = PROCESS_SECONDS
        return self.resources.enter_context(disk)


class TestDeviceRig(ProcessRig):
    __test__ = False

    def make(self) -> VirtioBlk:
        device = self.resources.enter_context(testdev.start("fake:1M?queues=2", tolerant=True))
        self.pid = device.pid
        return self.open(f"{device.target}?queues=2")


class NullDeviceRig(ProcessRig):
    believes = False

    def make(self) -> VirtioBlk:
        device = self.resources.enter_context(devices.null_device(fifo=False))
        self.pid = device.pid
        return self.open(device.target)


class StorageDaemonRig(ProcessRig):
    def make(self) -> VirtioBlk:
        folder = self.resources.enter_context(tempfile.TemporaryDirectory(prefix="hwloop-soak-"))
        image = _image(Path(folder))
        blockdev = f"driver=file,filename={image}"
        device = self.resources.enter_context(devices.storage_daemon(blockdev, fifo=False, queues=2))
        self.pid = device.pid
        return self.open(f"{device.target}?queues=2")


class QtestRig(ProcessRig):
    def make(self) -> VirtioBlk:
        folder = self.resources.enter_context(tempfile.TemporaryDirectory(prefix="hwloop-soak-"))
        place = QemuPlace(Target("qemu", str(_image(Path(folder))), {"num-queues": "2"}))
        self.machine = self.resources.enter_context(place.open_machine())
        self.pid = self.machine.process.pid
        opened = place.reach(self.machine)
        self.resources.enter_context(opened)
        options = QueueOptions(queues=2)
        return self.resources.enter_context(
            VirtioBlk(opened.transport, opened.hal, request_seconds=PROCESS_SECONDS, options=options)
        )

    def faults(self) -> dict[str, Fault]:
        return {
            "Qtest is slow": self._throttle,
            "Qtest stops and goes on": self._stop_machine,
            "Qtest resize": self._resize,
            "Qtest is killed": self._kill,
        }

    def _throttle(self) -> Undo:
        _limit(self.machine, 1)
        self.disk._request_seconds = 0.3
        return self._fast

    def _fast(self) -> None:
        _limit(self.machine, 0)
        self.disk._request_seconds = PROCESS_SECONDS

    def _stop_machine(self) -> None:
        self.machine.qmp.execute("stop")
        self.machine.qmp.execute("cont")

    def _resize(self) -> None:
        size = self.choose.choice([MIB, 2 * MIB])
        self.machine.qmp.execute("block_resize", {"node-name": "disk0"}, size=size)
        self.disk.check_events()


def _limit(machine: QemuMachine, requests_a_second: int) -> None:
    limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
    backend = f"/machine/peripheral/{DEVICE_ID}/virtio-backend"
    machine.qmp.execute("block_set_io_throttle", limits, id=backend, iops=requests_a_second)


def _image(folder: Path) -> Path:
    path = folder / "disk.img"
    with open(path, "wb") as file:
        file.truncate(MIB)
    return path


HERE: list[type[Rig]] = [FakeRig, PackedFakeRig, TestDeviceRig]
RIGS: list[type[Rig]] = [*HERE, NullDeviceRig, StorageDaemonRig, QtestRig]


@contextmanager
def running(kind: type[Rig], choose: random.Random) -> Iterator[Rig]:
    rig = kind(choose)
    try:
        yield rig
    finally:
        rig.close()
