"""The fake MMIO device refuses what the specification forbids, in the access itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cython_ring import split_layout
from hwloop.device.blk_protocol import BlkConfig
from hwloop.device.fake_blk import FakeBlk
from hwloop.hal.base import BufferDirection
from hwloop.hal.fake import FakeHal
from hwloop.spec import DeviceStatus, Feature
from hwloop.transport.fake_device import MODERN, RuleBroken
from hwloop.transport.fake_mmio import FakeMmioDevice
from mmio import FakeRegion

FEATURES = int(MODERN | Feature.RING_RESET)


class Bench:
    """A device whose driver is the test."""

    def __init__(self, version: int) -> None:
        self.hal = FakeHal()
        self.device = FakeBlk(self.hal, features=FEATURES)
        self.bank = FakeMmioDevice(self.device, version, config=BlkConfig)
        self.region: FakeRegion = self.bank.region

    def write(self, *accesses: tuple[int, int]) -> Bench:
        for offset, value in accesses:
            self.region.write32(offset, value)
        return self

    def negotiated(self) -> Bench:
        self.write((0x70, 0), (0x70, 1), (0x70, 3), (0x24, 0), (0x20, 0))
        if self.bank.version == 2:
            self.write((0x24, 1), (0x20, FEATURES >> 32), (0x70, 11))
        return self

    def with_queue(self, size: int = 16) -> Bench:
        layout = split_layout(size, align=4096)
        start, _ = self.hal.dma_alloc(3, BufferDirection.Both)
        self.write((0x30, 0), (0x38, size))
        if self.bank.version == 1:
            return self.write((0x28, 4096), (0x3C, 4096), (0x40, start // 4096))
        for offset, address in ((0x80, 0), (0x90, layout.avail_offset), (0xA0, layout.used_offset)):
            self.write((offset, start + address & 0xFFFF_FFFF), (offset + 4, start + address >> 32))
        return self.write((0x44, 1))


Act = Callable[[Bench], object]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda bench: bench.region.read8(0x70), "take aligned accesses of 32"),
        (lambda bench: bench.region.read16(0x70), "take aligned accesses of 32"),
        (lambda bench: bench.region.write64(0x80, 0), "take aligned accesses of 32"),
        (lambda bench: bench.region.read32(0x018), "has no register"),
        (lambda bench: bench.region.read32(0x014), "is to write, and was read"),
        (lambda bench: bench.region.write32(0x000, 0), "is to read, and was written"),
        (lambda bench: bench.region.read32(0x010), "before DeviceFeaturesSel was written"),
        (lambda bench: bench.region.write32(0x020, 0), "before DriverFeaturesSel"),
        (lambda bench: bench.region.read32(0x034), "before QueueSel was written"),
        (lambda bench: bench.write((0x30, 9), (0x38, 4)), "its QueueSizeMax is 0"),
        (lambda bench: bench.write((0x30, 0), (0x38, 128)), "QueueSize 128 was written; the most is 64"),
        (lambda bench: bench.write((0x30, 0), (0x38, 12)), "QueueSize 12 was written"),
        (lambda bench: bench.write((0x50, 5)), "queue 5 was notified; there are 1"),
        (lambda bench: bench.negotiated().write((0x50, 0)), "before DRIVER_OK"),
        (lambda bench: bench.negotiated().with_queue().write((0x38, 16)), "while the queue is in use"),
        (lambda bench: bench.write((0x64, 1)), "is pending"),
        (lambda bench: bench.write((0x64, 4)), "which has two bits"),
        (lambda bench: bench.write((0x64, 0)), "which has two bits"),
        (lambda bench: bench.write((0x70, 0x101)), "it has 8 bits"),
        (lambda bench: bench.region.read64(0x100), "in one access"),
        (lambda bench: bench.region.read8(0x100), "where no field is so wide"),
        (lambda bench: bench.region.read32(0x108 + 2), "in one access|not aligned"),
        (lambda bench: bench.region.read32(0x1F0), "are not in the 60 of the configuration"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_said_at_once(version: int, act: Act, words: str) -> None:
    with pytest.raises((RuleBroken, OSError), match=words):
        act(Bench(version))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda bench: bench.region.read32(0x0FC), "version 1 has no register"),
        (lambda bench: bench.region.write32(0x044, 1), "version 1 has no register"),
        (lambda bench: bench.region.write32(0x080, 1), "version 1 has no register"),
        (lambda bench: bench.write((0x70, 1), (0x70, 3), (0x70, 11)), "legacy device does not know"),
        (lambda bench: bench.write((0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1)), "which has one"),
        (lambda bench: bench.write((0x28, 4097)), "GuestPageSize 4097 is no power of two"),
        (lambda bench: bench.write((0x30, 0), (0x3C, 3)), "QueueAlign 3 is no power of two"),
        (lambda bench: bench.write((0x30, 0), (0x38, 16), (0x3C, 4096), (0x40, 9)), "before GuestPageSize"),
        (lambda bench: bench.write((0x28, 4096), (0x30, 0), (0x38, 16), (0x40, 9)), "before QueueNum and QueueAlign"),
        (lambda bench: bench.write((0x28, 4096), (0x30, 0), (0x3C, 4096), (0x40, 9)), "before QueueNum and QueueAlign"),
        (lambda bench: bench.negotiated().with_queue().region.read32(0x034), "while the queue is in use"),
        (lambda bench: bench.negotiated().with_queue().write((0x28, 4096)), "while a queue is in use"),
        (lambda bench: bench.negotiated().with_queue().write((0x70, 0), (0x70, 1), (0x70, 3), (0x30, 0), (0x38, 16),
                                                             (0x3C, 4096), (0x40, 9)), "before GuestPageSize"),
    ],
)  # fmt: skip
def test_a_rule_of_version_1_that_is_broken_is_said_at_once(act: Act, words: str) -> None:
    with pytest.raises(RuleBroken, match=words):
        act(Bench(1))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda bench: bench.region.write32(0x028, 4096), "version 2 has no register"),
        (lambda bench: bench.region.write32(0x03C, 4096), "version 2 has no register"),
        (lambda bench: bench.region.read32(0x040), "version 2 has no register"),
        (lambda bench: bench.negotiated().write((0x30, 0), (0x44, 1)), "before its size was written"),
        (lambda bench: bench.negotiated().write((0x30, 0), (0x44, 2)), "2 was written to QueueReady"),
        (lambda bench: bench.negotiated().with_queue().write((0x44, 1)), "enabled twice"),
        (lambda bench: bench.negotiated().with_queue().write((0x84, 0)), "QueueDescHigh of queue 0"),
        (lambda bench: bench.negotiated().with_queue().write((0xC0, 2)), "2 was written to QueueReset"),
        (lambda bench: bench.write((0x70, 1), (0x70, 3), (0x30, 0), (0xC0, 1)), "1 was written to QueueReset"),
        (lambda bench: bench.region.read32(0x0B0), "SHMLenLow was read before SHMSel"),
        (lambda bench: bench.write((0x70, 1), (0x70, 3), (0x24, 0), (0x20, 0), (0x70, 11)), "VERSION_1"),
    ],
)  # fmt: skip
def test_a_rule_of_version_2_that_is_broken_is_said_at_once(act: Act, words: str) -> None:
    with pytest.raises(RuleBroken, match=words):
        act(Bench(2))


@pytest.mark.parametrize("version", [1, 2])
def test_nothing_but_the_status_is_touched_during_a_reset(version: int) -> None:
    bench = Bench(version).negotiated()
    bench.device.faults.reset_reads = 2
    bench.write((0x70, 0))
    for offset in (0x000, 0x100):
        with pytest.raises(RuleBroken, match="while the device was being reset"):
            bench.region.read32(offset)
    assert [bool(bench.region.read32(0x70)) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("version", [1, 2])
def test_what_a_reset_forgets_has_to_be_said_again(version: int) -> None:
    bench = Bench(version).negotiated().with_queue().write((0x70, 0))
    assert not bench.device.queues[0].enabled
    with pytest.raises(RuleBroken, match="before QueueSel was written"):
        bench.region.read32(0x034)


@pytest.mark.parametrize("version", [1, 2])
def test_a_device_that_is_gone_reads_all_ones_and_takes_nothing(version: int) -> None:
    bench = Bench(version)
    bench.device.faults.gone = True
    assert bench.region.read32(0x000) == 0xFFFF_FFFF
    bench.write((0x70, 1))
    assert bench.device.status == DeviceStatus(0)


def test_the_width_of_a_field_is_free_where_the_layout_is_not_given() -> None:
    bank = FakeMmioDevice(FakeBlk(FakeHal()), 2)
    assert [bank.region.read8(0x100 + at) for at in range(4)] == [0x00, 0x08, 0, 0]


def test_every_access_is_in_the_log() -> None:
    bench = Bench(2).write((0x14, 0))
    bench.region.read32(0x10)
    assert bench.bank.log == ["DeviceFeaturesSel", "DeviceFeatures"]
