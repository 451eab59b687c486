"""A door: one way in which a block device of ours can be reached, as the contract suite needs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from hwloop.device.block import BlockDevice


@dataclass(frozen=True)
class Wants:
    """What a test wants the device to be. A door that cannot give it skips the test, with the reason."""

    read_only: bool = False
    flush: bool = True
    block_size: int = 512
    queue_size: int = 64
    size_max: int = 0
    seg_max: int = 126
    serial: bytes = b"HWLOOP0"
    discard: bool = False
    write_zeroes: bool = False
    write_cache: str = ""
    """The mode in which a cache begins that can be switched; "": it cannot."""
    shape: str = ""
    """Further options, as fake disks have them."""


class Door(ABC):
    """Opens one disk. `can` names the fields of `Wants` that it can give other values than the usual ones."""

    name = ""
    target = ""
    """What a user gives to get there, for the table in the README; "" for a door that only tests have."""
    can: frozenset[str] = frozenset()
    lacks: Mapping[str, str] = {}
    """What its device has not, of what every virtio device has, each with the reason."""
    device_name = "virtio-blk"

    def open(self, size: int, **wants: object) -> BlockDevice:
        """A driver on a new disk of `size` zero bytes. Skips the test that wants what this door has not."""
        asked = Wants(**wants)  # type: ignore[arg-type]
        usual = Wants()
        beyond = {key for key in vars(usual) if getattr(asked, key) != getattr(usual, key)} - self.can
        if beyond:
            pytest.skip(f"the door {self.name} gives no other {', '.join(sorted(beyond))}")
        self.make(size, asked)
        return self.reopen()

    def needs(self, what: str) -> None:
        """Skips the test when the device has not got it."""
        if what in self.lacks:
            pytest.skip(f"the door {self.name} has no {what}: {self.lacks[what]}")

    @abstractmethod
    def make(self, size: int, wants: Wants) -> None:
        """Make the disk."""

    @abstractmethod
    def reopen(self) -> BlockDevice:
        """Another driver on the disk that `open` made, after the one before was closed."""

    @abstractmethod
    def backing(self, offset: int, length: int) -> bytes:
        """The bytes that the disk has now, read past the driver."""

    def close(self) -> None:  # noqa: B027
        """Called at the end of the test: close what is open, and assert that nothing is left over."""
