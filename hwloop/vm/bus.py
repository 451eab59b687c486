"""Where the virtio devices of a machine sit: on its PCI bus, or in its slots of memory-mapped registers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hwloop.vm.errors import BadOption

Options = Mapping[str, str]
"""Options of one QEMU device."""

MMIO_VERSIONS = (1, 2)
"""What the register Version of a virtio-mmio device can say: legacy, or VIRTIO 1 (VIRTIO 1.4, 4.2.2)."""

SLOT_SIZE = 0x200
"""Bytes of registers in QEMU's virtio-mmio slots, and so from one slot to the next."""

_PCI_ONLY = frozenset(
    ("addr", "multifunction", "disable-legacy", "disable-modern", "vectors", "ats", "page-per-vq", "modern-pio-notify")
)
_MMIO_SLOT = re.compile(r"virtio-mmio-bus\.(\d+)")


class Bus(ABC):
    """What QEMU calls a virtio device of this bus, and where it goes."""

    suffix: ClassVar[str]
    """Of the device's name, as in `virtio-blk-pci`."""

    defaults: ClassVar[Options] = {}
    """Options that a disk gets unless it has its own."""

    @property
    @abstractmethod
    def share(self) -> Options:
        """Where the 9p device of `--share` goes, out of the disks' way."""

    @abstractmethod
    def arguments(self, mmio_version: int | None) -> list[str]:
        """QEMU's arguments for all devices of the bus; None for the version is the usual one. Raises BadOption."""

    @abstractmethod
    def places(self, disks: Sequence[tuple[str, Options]]) -> Iterator[Options]:
        """For each disk, given by its name and its own options, what says where it goes: by its turn if it does not
        say so itself. Raises BadOption when the places do not suffice, or an option has no meaning here."""


@dataclass(frozen=True)
class PciBus(Bus):
    """The root bus. The first disk is at the first of `slots`."""

    slots: range
    share_slot: int

    suffix = "pci"
    defaults: ClassVar[Options] = {"iommu_platform": "on", "disable-legacy": "on"}

    @property
    def share(self) -> Options:
        return {"addr": f"{self.share_slot:02x}.0"}

    def arguments(self, mmio_version: int | None) -> list[str]:
        if mmio_version is not None:
            raise BadOption(
                f"virtio-mmio version {mmio_version} was asked for, and the machine has its disks on PCI",
                remedy="add --machine microvm or --machine virt, or leave --mmio-version out",
            )
        return []

    def places(self, disks: Sequence[tuple[str, Options]]) -> Iterator[Options]:
        taken = {_slot(own["addr"]) for _, own in disks if "addr" in own and "bus" not in own}
        for index, (name, own) in enumerate(disks):
            if "addr" in own or "bus" in own:
                yield {}
                continue
            free = next((slot for slot in self.slots[index:] if slot not in taken), None)
            if free is None:
                raise BadOption(f"no slot is left for disk {name}", remedy="give it an addr= or a bus=")
            taken.add(free)
            yield {"addr": f"{free:02x}.0"}


def _slot(address: str) -> int:
    """The slot of QEMU's `addr=SLOT[.FUNCTION]`. Raises BadOption."""
    try:
        return int(address.partition(".")[0], 16)
    except ValueError:
        raise BadOption(f"disk address {address!r} is not SLOT.FUNCTION", remedy="write addr=07.0") from None


@dataclass(frozen=True)
class MmioBus(Bus):
    """Slots of 512 bytes, one behind the other from `base` on; slot 0 is at `base`. The first disk is in the first of
    `slots`, which stand in the order in which the guest's kernel finds them, so that it is vda there; the share is in
    the last. QEMU would fill them too, but a slot that is named has an address that can be known before.
    """

    base: int
    slots: range
    can_share: bool = True
    """Whether the guest's kernel finds the devices, so that it can mount a shared folder through one."""

    suffix = "device"

    def address(self, index: int) -> int:
        """Where the registers of the disk of this turn are, if it names no slot."""
        return self.base + self.slots[index] * SLOT_SIZE

    @property
    def share(self) -> Options:
        if not self.can_share:
            raise BadOption(
                "--share needs a virtio device that the guest's kernel finds, and on this machine it finds none",
                remedy="use --machine microvm",
            )
        return {"bus": f"virtio-mmio-bus.{self.slots[-1]}"}

    def arguments(self, mmio_version: int | None) -> list[str]:
        version = MMIO_VERSIONS[-1] if mmio_version is None else mmio_version
        if version not in MMIO_VERSIONS:
            raise BadOption(f"virtio-mmio version {version} does not exist", remedy="choose 1 or 2")
        return ["-global", f"virtio-mmio.force-legacy={'true' if version == 1 else 'false'}"]

    def places(self, disks: Sequence[tuple[str, Options]]) -> Iterator[Options]:
        taken = {self._slot_of(name, own) for name, own in disks}
        for name, own in disks:
            if "bus" in own:
                yield {}
                continue
            free = next((slot for slot in self.slots if slot not in taken), None)
            if free is None:
                raise BadOption(f"no slot is left for disk {name}: the machine has {len(self.slots)}")
            taken.add(free)
            yield {"bus": f"virtio-mmio-bus.{free}"}

    def _slot_of(self, name: str, own: Options) -> int | None:
        """The slot that a disk asks for. Raises BadOption for one that is not there, and for options of PCI."""
        wrong = sorted(_PCI_ONLY & set(own))
        if wrong:
            raise BadOption(
                f"disk {name}: {wrong[0]}= is of PCI, and this machine has its disks in virtio-mmio slots",
                remedy="leave it out, or use --machine q35; bus=virtio-mmio-bus.N names a slot",
            )
        if "bus" not in own:
            return None
        found = _MMIO_SLOT.fullmatch(own["bus"])
        if found is None or int(found[1]) not in self.slots:
            raise BadOption(
                f"disk {name}: bus {own['bus']!r} is not there",
                remedy=f"choose virtio-mmio-bus.N with N from {min(self.slots)} to {max(self.slots)}",
            )
        return int(found[1])
