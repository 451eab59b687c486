from __future__ import annotations

import errno

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pci import (
    CAPABILITY_NAMES,
    EXTENDED_CAPABILITY_NAMES,
    BytesConfigAccess,
    CapabilityError,
    CapabilityId,
    CapabilityInfo,
    CapabilityIterator,
    ConfigAccessError,
    ConfigSpace,
    ExtendedCapabilityInfo,
    PciError,
    new_function,
)


def with_list(*entries: tuple[int, bytes], first: int | None = None, size: int = 256) -> ConfigSpace:
    """A function whose list starts at the first entry, or at `first`; entries are (offset, bytes)."""
    fake = new_function(0x1234, 0x5678, size, name="fake")
    fake.poke(6, b"\x10\x00")
    fake.poke(0x34, bytes([entries[0][0] if first is None else first]))
    for offset, data in entries:
        fake.poke(offset, data)
    return ConfigSpace(fake)


def extended(*headers: tuple[int, int]) -> ConfigSpace:
    """A function with these extended headers; (offset, word)."""
    fake = new_function(0x1234, 0x5678, 0x1000, name="fake")
    for offset, word in headers:
        fake.poke(offset, word.to_bytes(4, "little"))
    return ConfigSpace(fake)


# --- The list of the first 256 bytes ----------------------------------------------------------------------------------


def test_the_list_is_walked_in_its_own_order() -> None:
    config = with_list((0x80, b"\x11\x40\x04\x80"), (0x40, b"\x09\x60\x10\x01"), (0x60, b"\x77\x00\xcd\xab"))

    assert list(config.capabilities()) == [
        CapabilityInfo(0x80, 0x11, 0x8004),
        CapabilityInfo(0x40, 0x09, 0x0110),
        CapabilityInfo(0x60, 0x77, 0xABCD),
    ]


def test_without_the_status_bit_there_are_none_whatever_the_pointer_says() -> None:
    fake = new_function(1, 2)
    fake.poke(0x34, b"\x40")

    assert list(ConfigSpace(fake).capabilities()) == []


def test_an_empty_list_has_none() -> None:
    assert list(with_list((0x40, b"\x09\0\0\0"), first=0).capabilities()) == []


def test_the_two_lowest_bits_of_pointers_are_not_looked_at() -> None:
    config = with_list((0x40, b"\x09\x53\0\0"), (0x50, b"\x11\x02\0\0"), first=0x41)

    assert [found.offset for found in config.capabilities()] == [0x40, 0x50]


def test_a_null_capability_does_not_end_the_list() -> None:
    config = with_list((0x40, b"\x00\x50\0\0"), (0x50, b"\x11\x00\0\0"))

    assert [found.id for found in config.capabilities()] == [0x00, 0x11]


def test_a_cardbus_bridge_has_its_pointer_elsewhere() -> None:
    config = with_list((0x80, b"\x01\0\0\0"), first=0x60)
    config._access.poke(0x0E, b"\x02")  # type: ignore[attr-defined]
    config._access.poke(0x14, b"\x80")  # type: ignore[attr-defined]

    assert [found.offset for found in config.capabilities()] == [0x80]


def test_every_place_there_is_can_have_a_capability() -> None:
    places = range(0x40, 0x100, 4)
    config = with_list(*[(place, bytes([9, place + 4 & 0xFF, 0, 0])) for place in places])

    assert [found.offset for found in config.capabilities()] == list(places)
    assert len(places) == 48


@pytest.mark.fault(29)
@pytest.mark.parametrize("pointer", [0x04, 0x10, 0x3C, 0x3F])
def test_a_pointer_into_the_header_is_an_error_that_says_where_it_was(pointer: int) -> None:
    config = with_list((0x40, bytes([9, pointer, 0, 0])))

    with pytest.raises(CapabilityError, match=r"fake: .*pointer in offset 0x40 leads in front of 0x40") as caught:
        list(config.capabilities())
    assert caught.value.errno == errno.EIO


def test_a_first_pointer_into_the_header_is_an_error() -> None:
    with pytest.raises(CapabilityError, match="pointer in the header leads in front of 0x40"):
        list(with_list((0x40, b"\x09\0\0\0"), first=0x34).capabilities())


@pytest.mark.fault(29)
@pytest.mark.parametrize("back_to", [0x40, 0x50, 0x60])
def test_a_list_that_comes_back_is_an_error_and_not_a_loop(back_to: int) -> None:
    config = with_list((0x40, b"\x09\x50\0\0"), (0x50, b"\x09\x60\0\0"), (0x60, bytes([9, back_to, 0, 0])))

    with pytest.raises(CapabilityError, match="0x60 leads back"):
        list(config.capabilities())


def test_what_comes_before_the_break_is_seen() -> None:
    walk = with_list((0x40, b"\x09\x50\0\0"), (0x50, b"\x09\x50\0\0")).capabilities()

    assert [next(walk).offset, next(walk).offset] == [0x40, 0x50]
    with pytest.raises(CapabilityError):
        next(walk)


def test_a_list_past_the_bytes_there_are_is_an_error_that_says_how_many() -> None:
    fake = new_function(1, 2, 64)
    fake.poke(6, b"\x10\x00")
    fake.poke(0x34, b"\x40")

    with pytest.raises(CapabilityError, match="past the 0x40 bytes that can be read"):
        list(ConfigSpace(fake).capabilities())


def test_a_capability_that_reads_as_ones_is_an_error() -> None:
    with pytest.raises(CapabilityError, match="read as ones"):
        list(with_list((0x40, b"\xff\xff\xff\xff")).capabilities())


def test_a_function_that_is_gone_is_said_to_be_gone() -> None:
    with pytest.raises(ConfigAccessError) as caught:
        list(ConfigSpace(BytesConfigAccess(b"\xff" * 256)).capabilities())
    assert caught.value.errno == errno.ENODEV


def test_the_list_is_read_as_it_is_taken() -> None:
    fake = new_function(1, 2)
    fake.declare_capability(0x40, 9, b"\0\0")
    fake.declare_capability(0x50, 9, b"\0\0")
    walk = CapabilityIterator(ConfigSpace(fake))

    assert fake.accesses == []
    next(walk)
    assert ("read", 0x40, 4, 0x5009) in fake.accesses
    assert not any(access.offset == 0x50 for access in fake.accesses)


headers = st.lists(
    st.tuples(st.integers(0x40, 0xFF), st.integers(0, 0xFF), st.integers(0, 0xFF)), min_size=1, max_size=60
)


@given(st.integers(0, 255), headers)
@example(0x40, [(0x40, 9, 0x40)])
def test_any_list_of_pointers_ends_or_is_an_error(first: int, entries: list[tuple[int, int, int]]) -> None:
    fake = new_function(1, 2)
    fake.poke(6, b"\x10\x00")
    fake.poke(0x34, bytes([first]))
    for offset, kind, pointer in entries:
        fake.poke(offset & 0xFC, bytes([kind, pointer]))
    _walk_all(ConfigSpace(fake))


@given(st.binary(min_size=64, max_size=256))
def test_random_bytes_end_or_are_a_typed_error(data: bytes) -> None:
    _walk_all(ConfigSpace(BytesConfigAccess(data)))


@given(st.binary(min_size=0, max_size=0x300))
def test_a_random_extended_part_ends_or_is_a_typed_error(data: bytes) -> None:
    _walk_all(ConfigSpace(BytesConfigAccess(bytes(0x100) + data)))


def _walk_all(config: ConfigSpace) -> None:
    try:
        found = list(config.capabilities())
        assert len({one.offset for one in found}) == len(found) <= 48
        assert all(0x40 <= one.offset < 0x100 and one.offset % 4 == 0 for one in found)
    except PciError:
        pass
    try:
        more = list(config.extended_capabilities())
        assert len({one.offset for one in more}) == len(more) <= 960
        assert all(0x100 <= one.offset <= config.size - 4 for one in more)
    except PciError:
        pass


# --- The extended list ------------------------------------------------------------------------------------------------


def test_the_extended_list_is_walked() -> None:
    config = extended((0x100, 0x1482_0001), (0x148, 0xFFC1_000D), (0xFFC, 0x000F_0023))

    assert list(config.extended_capabilities()) == [
        ExtendedCapabilityInfo(0x100, 0x0001, 2),
        ExtendedCapabilityInfo(0x148, 0x000D, 1),
        ExtendedCapabilityInfo(0xFFC, 0x0023, 15),
    ]


@pytest.mark.parametrize("header", [0, 0xFFFF_FFFF])
def test_a_first_header_of_zeros_or_ones_means_that_there_are_none(header: int) -> None:
    assert list(extended((0x100, header)).extended_capabilities()) == []


def test_conventional_pci_has_no_extended_capabilities() -> None:
    assert list(ConfigSpace(new_function(1, 2, 0x100)).extended_capabilities()) == []


def test_an_extended_list_that_comes_back_is_an_error() -> None:
    with pytest.raises(CapabilityError, match=r"extended capability list is broken: .* 0x200 leads back"):
        list(extended((0x100, 0x2001_0001), (0x200, 0x1001_0001)).extended_capabilities())


def test_an_extended_pointer_into_the_first_256_bytes_is_an_error() -> None:
    with pytest.raises(CapabilityError, match="leads in front of 0x100"):
        list(extended((0x100, 0x0401_0001)).extended_capabilities())


def test_an_extended_pointer_past_the_end_is_an_error() -> None:
    fake = new_function(1, 2, 0x200)
    fake.poke(0x100, (0x2001_0001).to_bytes(4, "little"))

    with pytest.raises(CapabilityError, match="past the 0x200 bytes"):
        list(ConfigSpace(fake).extended_capabilities())


def test_ones_in_the_middle_of_the_extended_list_are_an_error() -> None:
    with pytest.raises(CapabilityError, match="read as ones"):
        list(extended((0x100, 0x2001_0001), (0x200, 0xFFFF_FFFF)).extended_capabilities())


def test_every_place_of_the_extended_part_can_have_a_capability() -> None:
    config = extended(*[(place, (place + 4 & 0xFFF) << 20 | 0x1_000B) for place in range(0x100, 0x1000, 4)])

    assert sum(1 for _ in config.extended_capabilities()) == 960


def test_an_extended_capability_is_found_by_its_id_or_is_none() -> None:
    config = extended((0x100, 0x1481_0001), (0x148, 0x0001_000D))

    assert config.find_extended_capability(0x0D) == ExtendedCapabilityInfo(0x148, 0x0D, 1)
    assert config.find_extended_capability(0x0E) is None


# --- Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (CapabilityId.PCI_EXPRESS, "PCI Express"),
        (CapabilityId.MSIX, "MSI-X"),
        (CapabilityId.MSI, "MSI"),
        (CapabilityId.VENDOR_SPECIFIC, "Vendor Specific"),
        (CapabilityId.POWER_MANAGEMENT, "Power Management"),
    ],
)
def test_capabilities_have_names_for_people(number: int, name: str) -> None:
    assert CAPABILITY_NAMES[number] == CapabilityInfo(0x40, number, 0).name == name


def test_a_capability_that_nobody_named_is_called_by_its_number() -> None:
    assert CapabilityInfo(0x40, 0x77, 0).name == "capability 0x77"
    assert ExtendedCapabilityInfo(0x100, 0x777, 1).name == "extended capability 0x0777"


def test_extended_capabilities_have_names_for_people() -> None:
    assert EXTENDED_CAPABILITY_NAMES[0x0D] == ExtendedCapabilityInfo(0x100, 0x0D, 1).name == "Access Control Services"
