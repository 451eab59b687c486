"""The table of doors. To add one: a class, and a line in `DOORS`; the suite then runs over it. Fakes in process are
behind every one of `MACHINES`.

Doors into a test VM (VFIO and others) stand in tests/guest, where the same suite is imported with a table of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial

from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.hal.fake import FakeHal
from hwloop.hal.fake_interrupt import FakeInterrupts
from hwloop.spec import Feature
from hwloop.transport.base import Transport
from hwloop.transport.fake_device import MODERN
from hwloop.waiting import ADAPTIVE, IRQ, POLL
from tests.contract.door import Door, Wants
from tests.contract.fake_disks import make_fake
from tests.contract.machines import MACHINES, WITH_LEGACY
from tests.contract.qtest_doors import QTEST_DOORS
from tests.contract.svirtb_doors import SvirtbDoor, TrappedDoor
from tests.contract.vhost_doors import STORAGE_DAEMON_DOORS, VHOST_DOORS

REQUEST_SECONDS = 0.1


class FakeDoor(Door):
    """A `FakeBlk` in process, behind one of `MACHINES`. `device` is what a test of faults turns the switches of."""

    can = frozenset(field.name for field in fields(Wants))

    def __init__(self, machine: str, wait: str = POLL, *, name: str = "", vectors: int = 0) -> None:
        self.machine, self.name = machine, name or machine
        self.target = "fake:16M" if machine == "fake" else ""
        if wait != POLL:
            self.target = f"{self.target}?wait={wait}" if self.target else ""
        self.wait, self.vectors = wait, vectors
        self.hal = FakeHal()
        self.disk: VirtioBlk | None = None

    def make(self, size: int, wants: Wants) -> None:
        features = MODERN | (Feature.ANY_LAYOUT if self.name in WITH_LEGACY else 0)
        self.device = make_fake(self.hal, size, wants, features, FakeBlk)

    def reopen(self) -> VirtioBlk:
        """A machine's Hal lives as long as its driver, and so does the fake one."""
        self.hal = self.device.hal = FakeHal(interrupts=FakeInterrupts(self.vectors))
        self.disk = VirtioBlk(self.transport(), self.hal, request_seconds=REQUEST_SECONDS, wait=self.wait)
        return self.disk

    def transport(self) -> Transport:
        return MACHINES[self.machine](self.hal, self.device)

    def backing(self, offset: int, length: int) -> bytes:
        return bytes(self.device.data[offset : offset + length])

    def close(self) -> None:
        if self.disk is not None:
            self.disk.close()
        assert self.hal.leaks() == []


DOORS: dict[str, Callable[[], Door]] = {
    **{name: partial(FakeDoor, name) for name in MACHINES},
    "fake-adaptive": partial(FakeDoor, "fake", ADAPTIVE, vectors=2, name="fake-adaptive"),
    "pci-msix": partial(FakeDoor, "pci", IRQ, vectors=2, name="pci-msix"),
    "pci-intx": partial(FakeDoor, "pci", IRQ, name="pci-intx"),
    "pci-legacy-msix": partial(FakeDoor, "pci-legacy", IRQ, vectors=1, name="pci-legacy-msix"),
    "mmio-2-irq": partial(FakeDoor, "mmio-2", IRQ, name="mmio-2-irq"),
    **QTEST_DOORS,
    **VHOST_DOORS,
    **STORAGE_DAEMON_DOORS,
    "svirtb": SvirtbDoor,
    "svirtb-trapped": TrappedDoor,
}

STARTS_QEMU = {*QTEST_DOORS, *STORAGE_DAEMON_DOORS, "svirtb-trapped"}
"""Doors whose tests are deselected with -m 'not qemu'."""

for _name, _door in DOORS.items():
    _door.name = _name  # type: ignore[attr-defined]
