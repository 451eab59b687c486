"""What is asked of a disk: which requests, how many at a time, and where."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from hwloop.errors import InvalidParam, ReadOnlyDisk
from hwloop.spec import SECTOR_SIZE

if TYPE_CHECKING:
    from hwloop.device.block import BlockDevice

KINDS = ("randread", "randwrite", "read", "write", "randrw")
WAITS = ("poll", "irq", "adaptive")

Operation = tuple[bool, int]
"""Whether it writes, and the sector at which it begins."""


@dataclass(frozen=True)
class Workload:
    """`rw` is one of `KINDS`; `wait` of `WAITS`; `block_bytes` are moved by each request; `depth` requests are in
    flight for each of `jobs` threads; `offset` and `size` are the bytes of the disk that are used, `size` None up to
    its end; of a mix, `read_percent` are reads; `seed` chooses the random positions.
    """

    rw: str = "randread"
    block_bytes: int = 4096
    depth: int = 1
    jobs: int = 1
    wait: str = "poll"
    offset: int = 0
    size: int | None = None
    read_percent: int = 50
    seed: int = 1

    @property
    def writes(self) -> bool:
        """Whether it destroys what is on the disk."""
        return self.rw in ("randwrite", "write", "randrw")

    @property
    def percent_of_reads(self) -> int:
        """Of all requests."""
        return self.read_percent if self.rw == "randrw" else 0 if self.writes else 100

    @property
    def is_random(self) -> bool:
        return self.rw.startswith("rand")

    def on(self, disk: BlockDevice) -> Workload:
        """The same with `size` known. Raises InvalidParam for what does not fit the disk, ReadOnlyDisk."""
        if self.writes and disk.readonly():
            raise ReadOnlyDisk("the disk is read-only, so it cannot be measured by writing; nothing was sent")
        self._check_block(disk.block_size(), disk.max_transfer())
        rest = disk.size() - self.offset
        size = rest if self.size is None else self.size
        if size > rest:
            raise InvalidParam(f"{size} bytes at {self.offset} end behind the disk, which has {disk.size()} bytes")
        if size < self.block_bytes:
            raise InvalidParam(
                f"{max(0, size)} bytes at {self.offset} do not hold one request of {self.block_bytes}",
                remedy="give a smaller --bs or --offset, or a larger --size",
            )
        return replace(self, size=size)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def _check_block(self, block: int, most: int) -> None:
        if self.block_bytes % block or not block <= self.block_bytes <= most:
            raise InvalidParam(
                f"a request cannot have {self.block_bytes} bytes",
                remedy=f"give --bs as a multiple of the disk's block size {block}, up to {most}",
            )
        if self.offset % block:
            raise InvalidParam(f"offset {self.offset} does not begin a block of {block} bytes")


class Pattern:
    """The requests of job number `job`, in their order: the same ones for the same workload, job and `phase`."""

    def __init__(self, workload: Workload, job: int, phase: str = "") -> None:
        assert workload.size is not None, "it was fitted to a disk"
        source = random.Random(f"{workload.seed}/{job}/{phase}")
        self._sectors = workload.block_bytes // SECTOR_SIZE
        self._first = workload.offset // SECTOR_SIZE
        self._places = workload.size // workload.block_bytes
        # Jobs that read or write in order begin at shares of their own.
        self._next = self._places * job // workload.jobs
        self._random = source.random
        self._place: Callable[[], int] = self._random_place if workload.is_random else self._next_place
        self._is_write = _choice(workload, self._random)

    def take(self, count: int) -> list[Operation]:
        """The next `count` requests."""
        is_write, place, first, sectors = self._is_write, self._place, self._first, self._sectors
        return [(is_write(), first + place() * sectors) for _ in range(count)]

    def _random_place(self) -> int:
        return int(self._random() * self._places)

    def _next_place(self) -> int:
        place = self._next
        self._next = (place + 1) % self._places
        return place


def _choice(workload: Workload, source: Callable[[], float]) -> Callable[[], bool]:
    if workload.rw == "randrw":
        share = workload.read_percent / 100
        return lambda: source() >= share
    writes = workload.writes
    return lambda: writes
