"""The fake region's hooks, and the log of a logging region."""

from __future__ import annotations

import pytest

from mmio import Access, FakeRegion, LoggingRegion, MisalignedAccess, RegionBoundsError, RegionClosed, ValueRangeError


def test_it_is_filled_as_asked() -> None:
    assert FakeRegion(8, fill=0xFF).read64(0) == (1 << 64) - 1


def test_hooks_see_every_access_with_its_width() -> None:
    seen: list[tuple[int, ...]] = []
    fake = FakeRegion(16, on_read=lambda *access: seen.append(access), on_write=lambda *access: seen.append(access))
    fake.read16(2)
    fake.write32(4, 7)
    fake.read64_hi_lo(8)
    assert seen == [(2, 2), (4, 4, 7), (12, 4), (8, 4)]


def test_a_hook_without_an_answer_leaves_the_bytes_in_charge() -> None:
    fake = FakeRegion(8, on_read=lambda offset, width: None, on_write=lambda offset, width, value: None)
    fake.write32(0, 5)
    assert fake.read32(0) == 5


def test_a_read_hook_answers_for_the_device() -> None:
    fake = FakeRegion(8)
    fake.hook(4, on_read=lambda offset, width: 0x74726976)
    assert fake.read32(4) == 0x74726976
    assert fake.read32(0) == 0
    assert fake.peek(4, 4) == 0


def test_a_register_that_clears_when_read() -> None:
    fake = FakeRegion(8, fill=3)

    def read_and_clear(offset: int, width: int) -> int:
        value = fake.peek(offset, width)
        fake.poke(offset, width, 0)
        return value

    fake.hook(0, on_read=read_and_clear)
    assert [fake.read8(0), fake.read8(0), fake.read8(1)] == [3, 0, 3]


def test_a_register_that_the_driver_cannot_change() -> None:
    fake = FakeRegion(8, fill=9)
    fake.hook(0, on_write=lambda offset, width, value: fake.peek(offset, width))
    fake.write8(0, 1)
    fake.write8(1, 1)
    assert [fake.read8(0), fake.read8(1)] == [9, 1]


def test_a_hook_of_its_own_replaces_the_general_one() -> None:
    fake = FakeRegion(8, on_read=lambda offset, width: 1)
    fake.hook(4, on_read=lambda offset, width: 2)
    assert [fake.read32(0), fake.read32(4)] == [1, 2]


def test_a_model_that_answers_too_much_is_noticed() -> None:
    fake = FakeRegion(8, on_read=lambda offset, width: 0x100)
    assert fake.read16(0) == 0x100
    with pytest.raises(ValueRangeError):
        fake.read8(0)


def test_hooks_are_not_called_for_refused_accesses() -> None:
    seen: list[int] = []
    fake = FakeRegion(8, on_read=lambda offset, width: seen.append(offset))
    for offset in (2, 8, -4):
        with pytest.raises((MisalignedAccess, RegionBoundsError)):
            fake.read32(offset)
    assert seen == []


def test_the_devices_side_has_no_alignment_but_has_bounds() -> None:
    fake = FakeRegion(8)
    fake.poke(1, 6, 0x060504030201)
    assert fake.read32(4) == 0x00060504
    with pytest.raises(RegionBoundsError):
        fake.poke(4, 5, 0)
    with pytest.raises(RegionBoundsError):
        fake.peek(-1, 1)
    with pytest.raises(RegionBoundsError):
        fake.hook(8)


def test_the_log_has_one_entry_a_bus_access_in_order() -> None:
    region = LoggingRegion(FakeRegion(32))
    region.write8(1, 0xAB)
    region.write64(8, 1)
    region.write64_lo_hi(16, 0x2_0000_0001)
    assert region.read64_hi_lo(16) == 0x2_0000_0001
    assert region.log == [
        Access("write", 1, 1, 0xAB),
        Access("write", 8, 8, 1),
        Access("write", 16, 4, 1),
        Access("write", 20, 4, 2),
        Access("read", 20, 4, 2),
        Access("read", 16, 4, 1),
    ]


def test_a_refused_access_is_not_in_the_log() -> None:
    region = LoggingRegion(FakeRegion(8))
    for offset in (2, 8):
        with pytest.raises((MisalignedAccess, RegionBoundsError)):
            region.write32(offset, 1)
    with pytest.raises(ValueRangeError):
        region.write32(0, 1 << 32)
    assert region.log == []


def test_closing_the_log_closes_what_it_stands_for() -> None:
    inner = FakeRegion(8)
    LoggingRegion(inner).close()
    with pytest.raises(RegionClosed):
        inner.read8(0)
