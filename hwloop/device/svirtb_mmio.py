"""What the device model of seed 002 needs of a virtual machine: trapped accesses, and a map to stand in.

The seed's own types come from a hypervisor (`keos`, `kev`); these are as much of them as the model uses.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from enum import Enum
from typing import NewType

from hwloop.errors import AlreadyUsed
from mmio import Region

Gpa = NewType("Gpa", int)
"""A guest-physical address."""

Bus = MutableMapping[int, Region]
"""Which registers are at which physical address: the seed's `mmio::Controller`."""


@dataclass(frozen=True)
class MmioRegion:
    """The addresses that a device traps: from `start`, up to and without `end`."""

    start: Gpa
    end: Gpa


@dataclass(frozen=True)
class Write32:
    """A write of 32 bits: `src` is the value, `dst` where it goes (the seed's `Direction::Write32`)."""

    dst: Gpa
    src: int


@dataclass(frozen=True)
class OtherAccess:
    """Any other access: a read, or one of another width."""

    dst: Gpa
    width: int
    write: bool


Direction = Write32 | OtherAccess


@dataclass(frozen=True)
class MmioInfo:
    """One trapped access."""

    direction: Direction


class VmexitResult(Enum):
    """How the processor goes on after a trap."""

    Ok = "ok"


def map_region(bus: Bus, where: MmioRegion, region: Region) -> None:
    """Put registers on a bus. Raises AlreadyUsed when something is there (the seed's `EptMappingError`)."""
    for start, other in bus.items():
        if start < where.end and where.start < start + other.size:
            raise AlreadyUsed(f"registers at {start:#x} are in the way of {where.start:#x} to {where.end:#x}")
    bus[where.start] = region
