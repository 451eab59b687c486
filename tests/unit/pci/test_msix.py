from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pci import CapabilityError, CapabilityInfo, ConfigSpace, MsixInfo, new_function


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
