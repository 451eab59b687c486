"""The doors to svirtb (seed 002): a block device without virtio, and what it lacks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hwloop.device.svirtb import SvirtbBlk
from hwloop.device.svirtb_memory import BytesBacking, HalMemory
from hwloop.device.svirtb_model import SimpleVirtIoBlockDev
from hwloop.device.svirtb_protocol import SVIRTB_BASE, Interpretation, VirtIoMmioHeader
from hwloop.door.svirtb_trapped import TrappedMachine
from hwloop.hal.fake import FakeHal
from hwloop.spec import PhysAddr
from tests.contract.door import Door, Wants

LACKS = {
    "virtio driver": "svirtb is no virtio device",
    "serial": "the protocol has no request for one",
    "flush": "the protocol has no request for it, and a write that has completed is durable",
}


class SvirtbDoor(Door):
    """The strict device model in process; its thread runs at the same time as the driver."""

    target = "svirtb:DISK.img"
    device_name = "svirtb"
    can = frozenset({"flush", "block_size", "queue_size"})
    lacks = LACKS

    def __init__(self) -> None:
        self.hal = FakeHal()
        self.disk: SvirtbBlk | None = None
        self.model: SimpleVirtIoBlockDev | None = None

    def make(self, size: int, wants: Wants) -> None:
        self.wants = wants
        self.data = bytearray(size)
        self.interpretation = Interpretation(sector_size=wants.block_size)
        self.memory = HalMemory(self.hal)
        self.model = SimpleVirtIoBlockDev(
            BytesBacking(self.data), self.memory, interpretation=self.interpretation, strict=False
        )
        self.model.start()

    def reopen(self) -> SvirtbBlk:
        """A machine's Hal lives as long as its driver, and so does the fake one."""
        assert self.model is not None
        self.hal = self.memory.hal = FakeHal()
        self.model.attach(self.hal.regions)
        self.disk = SvirtbBlk(
            self.hal,
            self.hal.mmio_phys_to_virt(SVIRTB_BASE, VirtIoMmioHeader.span),
            len(self.data) // 512,
            queue_size=self.wants.queue_size,
            interpretation=self.interpretation,
            request_seconds=2.0,
        )
        return self.disk

    def backing(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def close(self) -> None:
        if self.disk is not None:
            self.disk.close()
        if self.model is not None:
            self.model.close()
            assert self.model.violations == []
            assert self.model.errors == []
        assert self.hal.leaks() == []


class TrappedDoor(Door):
    """The model as a process, behind registers that QEMU traps at 0xcafe0000; every `reopen` is another machine."""

    target = "svirtb:DISK.img?trapped=on"
    device_name = "svirtb"
    can = frozenset({"flush", "block_size", "queue_size"})
    lacks = LACKS

    def __init__(self) -> None:
        self.folder = TemporaryDirectory()
        self.image = Path(self.folder.name) / "disk.img"
        self.machines: list[TrappedMachine] = []
        self.disk: SvirtbBlk | None = None

    def make(self, size: int, wants: Wants) -> None:
        self.size, self.wants = size, wants
        with self.image.open("wb") as file:
            file.truncate(size)

    def reopen(self) -> SvirtbBlk:
        machine = TrappedMachine(str(self.image), self.wants.block_size)
        self.machines.append(machine)
        hal = machine.hal()
        self.disk = SvirtbBlk(
            hal,
            hal.mmio_phys_to_virt(PhysAddr(SVIRTB_BASE), VirtIoMmioHeader.span),
            self.size // 512,
            queue_size=self.wants.queue_size,
            interpretation=Interpretation(sector_size=self.wants.block_size),
        )
        self.disk.call_when_closed(machine.close)
        return self.disk

    def backing(self, offset: int, length: int) -> bytes:
        return self.image.read_bytes()[offset : offset + length]

    def close(self) -> None:
        if self.disk is not None:
            self.disk.close()
        for machine in self.machines:
            machine.close()
        self.folder.cleanup()
        assert [machine.device.complaints for machine in self.machines] == [""] * len(self.machines)
