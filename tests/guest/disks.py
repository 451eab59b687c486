"""The disks of the guest in which the contract suite runs: one for each kind of device that a test wants.

The host makes the images in the folder that the guest sees as /share, so that both can look at the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
FIRST_SLOT = 5


@dataclass(frozen=True)
class DiskSpec:
    """An image of `size` bytes; `options` go to QEMU's device, `wants` is what a test asks for to get it."""

    name: str
    size: int
    options: str = "serial=HWLOOP0"
    wants: dict[str, object] = field(default_factory=dict)

    def argument(self, folder: Path, more: str = "") -> str:
        """What `--disk` gets; `more` are options beside its own."""
        return f"{folder / self.name}.img,{self.options}{more}"


_LARGE_BLOCKS = "logical_block_size=4096,physical_block_size=4096,serial=HWLOOP0"

DISKS = [
    DiskSpec("1m", MIB),
    DiskSpec("2m", 2 * MIB),
    DiskSpec("3m", 3 * MIB),
    DiskSpec("4m", 4 * MIB),
    DiskSpec("1m-4k", MIB, _LARGE_BLOCKS, {"block_size": 4096}),
    DiskSpec("2m-4k", 2 * MIB, _LARGE_BLOCKS, {"block_size": 4096}),
    DiskSpec("read-only", MIB, "read-only=on", {"read_only": True}),
    DiskSpec("no-cache", MIB, "config-wce=off,write-cache=off", {"flush": False}),
    DiskSpec("queue-4", 2 * MIB, "queue-size=4", {"queue_size": 4}),
    DiskSpec("queue-8", 2 * MIB, "queue-size=8", {"queue_size": 8}),
    DiskSpec("queue-256", 2 * MIB, "queue-size=256", {"queue_size": 256}),
    DiskSpec("queue-1024", 2 * MIB, "queue-size=1024", {"queue_size": 1024}),
    DiskSpec("long-serial", MIB, "serial=01234567890123456789", {"serial": b"01234567890123456789"}),
]


TRANSITIONAL = ",disable-legacy=off,disable-modern=off,iommu_platform=off"
"""Options of a disk that has both interfaces. Its addresses do not go through the IOMMU: a legacy driver could not say
that they do."""


def address_of(spec: DiskSpec) -> str:
    """Where the guest finds it: the disks stand in the order of the table."""
    return f"0000:00:{FIRST_SLOT + DISKS.index(spec):02x}.0"
