"""The door that hwloop exists for: a real virtio-blk function of QEMU, through VFIO and its IOMMU."""

from __future__ import annotations

from pathlib import Path

import pytest

import hwloop
from hwloop import claim
from hwloop.device.blk import VirtioBlk
from tests.contract.door import Door, Wants
from tests.guest import machine
from tests.guest.disks import DISKS, DiskSpec, address_of

SHARE = Path("/share")
_EVERY_DISK = frozenset({"discard", "write_zeroes", "write_cache"})
"""What each of QEMU's disks has, without being asked."""


class VfioDoor(Door):
    """Picks the disk of the table that is what the test wants."""

    name = "vfio"
    target = "0000:00:05.0"
    driver: str | None = claim.VFIO_DRIVER
    options = ""
    can = _EVERY_DISK.union(key for spec in DISKS for key in spec.wants)

    def __init__(self) -> None:
        self._disk: VirtioBlk | None = None

    def make(self, size: int, wants: Wants) -> None:
        self._spec = _spec_for(size, wants)
        self.take(self._spec)
        if not wants.read_only:
            # Through the share, which is the image itself: another driver would take longer than most tests.
            with open(self._image(), "r+b", buffering=0) as image:
                assert image.write(bytes(size)) == size

    def take(self, spec: DiskSpec) -> None:
        """Bind the disk once and for all: a test then does not wait for the kernel's driver to come and go."""
        address = address_of(spec)
        if machine.driver(address) != self.driver:
            claim.bind_lastingly(address, self.driver)

    def place(self, spec: DiskSpec) -> str:
        """The target that opens the disk."""
        return address_of(spec) + self.options

    def reopen(self) -> VirtioBlk:
        disk = hwloop.open(self.place(self._spec))
        assert isinstance(disk, VirtioBlk)
        self._disk = disk
        return disk

    def backing(self, offset: int, length: int) -> bytes:
        with open(self._image(), "rb", buffering=0) as image:
            image.seek(offset)
            return image.read(length)

    def _image(self) -> Path:
        return SHARE / f"{self._spec.name}.img"

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()


def _spec_for(size: int, wants: Wants) -> DiskSpec:
    usual = Wants()
    asked = {key: value for key, value in vars(wants).items() if value != getattr(usual, key)}
    asked = {key: value for key, value in asked.items() if key not in _EVERY_DISK}
    for spec in DISKS:
        if spec.size == size and spec.wants == asked:
            return spec
    pytest.skip(f"the guest has no disk of {size} bytes with {asked}")
