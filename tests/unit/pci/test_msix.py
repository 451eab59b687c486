from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmio import FakeRegion
from pci import (
    BarInfo,
    BytesConfigAccess,
    CapabilityError,
    CapabilityInfo,
    ConfigSpace,
    IoBar,
    MemoryBar,
    MemoryBarType,
    MsixEntry,
    MsixInfo,
    MsixTable,
    PciError,
    disable_msix,
    enable_msix,
    new_function,
)


def with_msix(control: int, table: int, pending: int, offset: int = 0x98) -> ConfigSpace:
    fake = new_function(1, 2)
    words = control.to_bytes(2, "little") + table.to_bytes(4, "little") + pending.to_bytes(4, "little")
    fake.declare_capability(offset, 0x11, words[: 0x100 - offset - 2])
    return ConfigSpace(fake)


def test_the_capability_is_decoded() -> None:
    assert with_msix(0x8003, 0x0000_2001, 0x0000_3004).read_msix() == MsixInfo(
        offset=0x98,
        table_size=4,
        table_bar=1,
        table_offset=0x2000,
        pba_bar=4,
        pba_offset=0x3000,
        enabled=True,
        masked=False,
    )


@pytest.mark.parametrize(
    ("control", "enabled", "masked"), [(0, False, False), (0x8000, True, False), (0x4000, False, True)]
)
def test_enabled_and_masked_are_bits_of_their_own(control: int, enabled: bool, masked: bool) -> None:
    info = with_msix(control, 0, 0).read_msix()

    assert info is not None
    assert (info.enabled, info.masked) == (enabled, masked)


@pytest.mark.parametrize(("control", "size"), [(0x0000, 1), (0x07FF, 2048), (0x3800, 1)])
def test_the_table_has_one_vector_more_than_the_field_says_and_reserved_bits_do_not_count(
    control: int, size: int
) -> None:
    info = with_msix(control, 0, 0).read_msix()

    assert info is not None
    assert info.table_size == size


def test_a_function_without_msix_has_none() -> None:
    assert ConfigSpace(new_function(1, 2)).read_msix() is None


@pytest.mark.parametrize("bar", [6, 7])
def test_a_table_in_a_bar_that_no_function_has_is_an_error(bar: int) -> None:
    with pytest.raises(CapabilityError, match="0x98: its table is in a BAR") as caught:
        with_msix(0, bar, 0).read_msix()
    assert caught.value.errno == errno.EIO
    with pytest.raises(CapabilityError, match="its pending bit array"):
        with_msix(0, 0, bar).read_msix()


@pytest.mark.parametrize("offset", [0xF8, 0xFC])
def test_a_capability_that_does_not_fit_is_an_error(offset: int) -> None:
    with pytest.raises(CapabilityError, match="does not fit"):
        with_msix(0, 0, 0, offset).read_msix()


def test_a_capability_that_just_fits_is_read() -> None:
    assert with_msix(0, 0, 0, 0xF4).read_msix() is not None


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_any_words_are_decoded_in_range_or_refused(control: int, table: int, pending: int) -> None:
    try:
        info = MsixInfo.parse(CapabilityInfo(0x40, 0x11, control), table, pending)
    except CapabilityError:
        assert table & 7 > 5 or pending & 7 > 5
    else:
        assert 1 <= info.table_size <= 2048
        assert (info.table_offset | info.table_bar, info.pba_offset | info.pba_bar) == (table, pending)


# --- Turning it on ----------------------------------------------------------------------------------------------------


def switchable() -> BytesConfigAccess:
    fake = new_function(1, 2)
    fake.declare_capability(0x98, 0x11, bytes.fromhex("0300 01200000 04300000"))
    fake.write_masks[0x9B] = 0xC0
    return fake


@pytest.mark.parametrize(("masked", "control"), [(False, 0x8003), (True, 0xC003)])
def test_msix_is_turned_on_with_or_without_its_function_mask(masked: bool, control: int) -> None:
    fake = switchable()

    info = enable_msix(ConfigSpace(fake), masked=masked)

    assert (info.enabled, info.masked, info.table_size) == (True, masked, 4)
    assert info == ConfigSpace(fake).read_msix()
    assert fake.writes == [("write", 0x9A, 2, control)]


def test_msix_is_turned_off_and_its_mask_with_it() -> None:
    fake = switchable()
    enable_msix(ConfigSpace(fake), masked=True)

    info = disable_msix(ConfigSpace(fake))

    assert (info.enabled, info.masked) == (False, False)
    assert ConfigSpace(fake).read_msix() == info


@pytest.mark.parametrize("switch", [enable_msix, disable_msix])
def test_msix_of_a_function_without_any_cannot_be_switched(switch: object) -> None:
    fake = new_function(1, 2)
    assert callable(switch)

    with pytest.raises(CapabilityError, match="the function has no MSI-X") as caught:
        switch(ConfigSpace(fake))
    assert caught.value.errno == errno.EOPNOTSUPP
    assert fake.writes == []


# --- The table --------------------------------------------------------------------------------------------------------


class Log(FakeRegion):
    """A table after a reset: every vector masked. Lists its accesses."""

    def __init__(self, vectors: int) -> None:
        super().__init__(16 * vectors, on_read=self._seen_read, on_write=self._seen_write)
        self.seen: list[tuple[str, int, int, int]] = []
        for vector in range(vectors):
            self.poke(16 * vector + 12, 4, 1)

    def _seen_read(self, offset: int, width: int) -> None:
        self.seen.append(("read", offset, width, self.peek(offset, width)))

    def _seen_write(self, offset: int, width: int, value: int) -> None:
        self.seen.append(("write", offset, width, value))


def test_a_vector_gets_its_message_in_words_of_32_bits_and_stays_masked_until_it_is_unmasked() -> None:
    region = Log(4)
    table = MsixTable(region, 4)

    table.set(2, 0x1_2345_6780, 0x41)
    assert table.read(2) == MsixEntry(0x1_2345_6780, 0x41, masked=True)
    table.unmask(2)

    assert table.read(2) == MsixEntry(0x1_2345_6780, 0x41, masked=False)
    assert {width for _, _, width, _ in region.seen} == {4}
    assert [table.read(vector) for vector in (0, 1, 3)] == [MsixEntry(0, 0, masked=True)] * 3


def test_a_vector_that_may_fire_is_masked_while_its_message_changes() -> None:
    region = Log(1)
    table = MsixTable(region, 1)
    table.unmask(0)
    region.seen.clear()

    table.set(0, 0x1000, 7)

    writes = [(offset, value) for verb, offset, _, value in region.seen if verb == "write"]
    assert writes == [(12, 1), (0, 0x1000), (4, 0), (8, 7), (12, 0)]


def test_masking_keeps_the_reserved_bits_of_the_vector_control() -> None:
    region = Log(1)
    region.poke(12, 4, 0xABCD_0000)
    table = MsixTable(region, 1)

    table.mask(0)
    assert region.peek(12, 4) == 0xABCD_0001
    table.unmask(0)
    assert region.peek(12, 4) == 0xABCD_0000


@pytest.mark.parametrize("vector", [-1, 4])
def test_a_vector_that_the_table_does_not_have_is_refused(vector: int) -> None:
    region = Log(4)
    table = MsixTable(region, 4)

    for use in (table.mask, table.unmask, table.read, lambda number: table.set(number, 0, 0)):
        with pytest.raises(PciError, match="it has 4 vectors"):
            use(vector)
    assert region.seen == []


@pytest.mark.parametrize(("address", "data"), [(2, 0), (-4, 0), (1 << 64, 0), (0, -1), (0, 1 << 32)])
def test_a_message_that_cannot_be_is_refused_before_anything_is_written(address: int, data: int) -> None:
    region = Log(1)

    with pytest.raises(PciError, match="MSI-X vector 0"):
        MsixTable(region, 1).set(0, address, data)
    assert region.seen == []


def test_a_table_that_does_not_fit_its_region_is_an_error() -> None:
    with pytest.raises(CapabilityError, match=r"5 vectors are 0x50 bytes, and the region has \(0x40\)"):
        MsixTable(FakeRegion(0x40), 5)


BARS: dict[int, BarInfo] = {
    0: IoBar(0, 0xC000, 0x1000),
    1: MemoryBar(1, MemoryBarType.Width32, False, 0xE000_0000, 0x1000),
    2: MemoryBar(2, MemoryBarType.Width32, False, 0, 0x1000),
}


def info_of(bar: int, offset: int, vectors: int = 4) -> MsixInfo:
    return MsixInfo.parse(CapabilityInfo(0x98, 0x11, vectors - 1), offset | bar, 1)


@pytest.mark.parametrize(("offset", "vectors"), [(0, 4), (0xFC0, 4), (0, 256)])
def test_the_table_has_an_address_in_its_bar(offset: int, vectors: int) -> None:
    assert info_of(1, offset, vectors).table_address(BARS) == 0xE000_0000 + offset


@pytest.mark.parametrize(
    ("bar", "offset", "vectors", "problem"),
    [
        (1, 0xFC8, 4, r"ends behind the end of BAR 1 \(0x1000 bytes\), at \(0x1008\)"),
        (1, 0, 257, r"at \(0x1010\)"),
        (1, 0xFFFF_FFF8, 2048, r"at \(0x100007ff8\)"),
        (0, 0, 4, r"no memory at an address \(0x0\)"),
        (2, 0, 4, r"no memory at an address \(0x2\)"),
        (3, 0, 4, r"no memory at an address \(0x3\)"),
    ],
)
def test_a_table_that_is_not_all_in_memory_with_an_address_is_an_error(
    bar: int, offset: int, vectors: int, problem: str
) -> None:
    with pytest.raises(CapabilityError, match=problem):
        info_of(bar, offset, vectors).table_address(BARS)
