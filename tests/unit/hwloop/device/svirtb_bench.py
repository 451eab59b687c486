"""A svirtb driver and device face to face, for the tests beside this file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hwloop.device.svirtb import SvirtbBlk
from hwloop.device.svirtb_memory import BytesBacking, HalMemory
from hwloop.device.svirtb_model import SimpleVirtIoBlockDev
from hwloop.device.svirtb_protocol import SVIRTB_BASE, Interpretation, VirtIoMmioHeader
from hwloop.hal.fake import FakeHal
from mmio import LoggingRegion, Window

SIZE = 64 << 10
STATUS, QUEUE_SIZE, HI, LO, HEAD, TAIL = (register.offset for register in VirtIoMmioHeader.registers())


@dataclass
class Bench:
    """`log` is on the driver's side of the registers."""

    hal: FakeHal
    data: bytearray
    model: SimpleVirtIoBlockDev
    log: LoggingRegion

    def new_machine(self) -> None:
        """Another Hal for another driver: a machine's lives as long as its driver."""
        self.hal = FakeHal(dict(self.hal.regions))
        self.model.memory = HalMemory(self.hal)

    def open(self, **options: Any) -> SvirtbBlk:
        options = {"queue_size": 8, "request_seconds": 0.1, "step_seconds": 0.02} | options
        options.setdefault("interpretation", self.model.interpretation)
        return SvirtbBlk(self.hal, Window(self.log, 0, self.log.size), len(self.data) // 512, **options)

    def writes(self, offset: int) -> list[int]:
        return [access.value for access in self.log.log if access.op == "write" and access.offset == offset]


def new_bench(*, strict: bool = True, interpretation: Interpretation | None = None, size: int = SIZE) -> Bench:
    hal, data = FakeHal(), bytearray(size)
    model = SimpleVirtIoBlockDev(BytesBacking(data), HalMemory(hal), interpretation=interpretation, strict=strict)
    model.attach(hal.regions)
    return Bench(hal, data, model, LoggingRegion(hal.mmio_phys_to_virt(SVIRTB_BASE, VirtIoMmioHeader.span)))


@contextmanager
def opened(*, strict: bool = True, **options: Any) -> Iterator[tuple[SvirtbBlk, Bench]]:
    """A disk that is closed at the end, with nothing left over."""
    bench = new_bench(strict=strict, interpretation=options.get("interpretation"))
    with bench.open(**options) as disk:
        yield disk, bench
    assert bench.hal.leaks() == []
